"""MAF: masked autoregressive flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from flowkit.bijectors import Autoregressive
from flowkit.core.domain.domain import Domain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import alternating_order, stack
from flowkit.flows._recipe import Recipe
from flowkit.univariates import Affine


@FLOWS.register("maf")
class MAF(Recipe):
    """Affine autoregressive layers in alternating order; ``log_prob`` costs one pass, sampling one pass per group of coordinates.

    Args:
        features: D.
        context_features: size of a context vector; 0 for none.
        layers: number of coupling layers.
        hidden: widths of each conditioner's hidden layers.
        passes: groups of coordinates per layer; default D, fully autoregressive.
        support: domain that samples stay in; default all of R^D.
        standardize: end with a ``Standardize`` map, set by ``fit``.
        classes, context_shape, embed: other contexts, see ``Recipe``.
        activation: of the conditioners.

    Reference: Papamakarios et al. (2017), Masked Autoregressive Flow for Density Estimation, arXiv:1705.07057.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (64, 64),
        passes: int | None = None,
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
                order = alternating_order(features, i)
                return Autoregressive(features, Affine(), hidden, passes, order=order, context_features=context, activation=activation)

            return ~stack("MAF", layers, layer)

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
        self.passes = passes

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MAF]]:
        yield "plane", cls(2, layers=2, hidden=(8,))
        yield "conditional", cls(3, 2, layers=2, hidden=(8,))
        yield "classes", cls(2, layers=2, hidden=(8,), classes=3)
