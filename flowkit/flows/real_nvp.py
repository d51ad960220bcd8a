"""Real NVP: affine coupling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from flowkit.bijectors import Coupling
from flowkit.core.domain.domain import Domain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import alternating_mask, stack
from flowkit.flows._recipe import Recipe
from flowkit.univariates import Affine


@FLOWS.register("real_nvp")
class RealNVP(Recipe):
    """Affine coupling layers on alternating coordinates; both directions cost one pass.

    Args:
        features: D.
        context_features: size of a context vector; 0 for none.
        layers: number of coupling layers.
        hidden: widths of each conditioner's hidden layers.
        support: domain that samples stay in; default all of R^D.
        standardize: end with a ``Standardize`` map, set by ``fit``.
        classes, context_shape, embed: other contexts, see ``Recipe``.
        activation: of the conditioners.

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 8,
        hidden: Sequence[int] = (64, 64),
        *,
        support: Domain | None = None,
        standardize: bool = True,
        classes: int = 0,
        context_shape: Sequence[int | None] | None = None,
        embed: nn.Module | None = None,
        activation: str = "silu",
    ) -> None:
        def make(context: int) -> Bijector:
            def layer(i: int) -> Bijector:
                return Coupling(features, Affine(), hidden, alternating_mask(features, i), context_features=context, activation=activation)

            return ~stack("RealNVP", layers, layer)

        self._assemble(
            make,
            features=features,
            context_features=context_features,
            classes=classes,
            context_shape=context_shape,
            embed=embed,
            support=support,
            standardize=standardize,
        )
        self.layers, self.hidden, self.activation = layers, tuple(hidden), activation

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RealNVP]]:
        yield "plane", cls(2, layers=2, hidden=(8,))
        yield "conditional", cls(3, 2, layers=2, hidden=(8,))
        yield "classes", cls(2, layers=2, hidden=(8,), classes=3)
