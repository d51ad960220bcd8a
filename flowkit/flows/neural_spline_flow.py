"""Neural spline flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from flowkit.bijectors import Autoregressive, Coupling, Elementwise
from flowkit.core.domain.domain import Domain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import alternating_mask, alternating_order, stack
from flowkit.flows._recipe import Recipe
from flowkit.univariates import RationalQuadraticSpline


@FLOWS.register("neural_spline_flow", "nsf")
class NeuralSplineFlow(Recipe):
    """Rational-quadratic spline layers with LU linear maps between them, and a spline per coordinate next to the data.

    Coupling by default: both directions cost one pass. ``autoregressive=True`` takes the order of MAF: ``log_prob`` costs one
    pass, sampling one pass per group of coordinates.

    Args:
        features: D.
        context_features: size of a context vector; 0 for none.
        layers: number of coupling layers.
        hidden: widths of each conditioner's hidden layers.
        bins: of each spline.
        bound: splines act on [-bound, bound] of standardised coordinates, the identity outside.
        autoregressive: masked autoregressive layers in place of coupling.
        passes: groups of coordinates per autoregressive layer; default D.
        support: domain that samples stay in; default all of R^D.
        standardize: end with a ``Standardize`` map, set by ``fit``.
        classes, context_shape, embed: other contexts, see ``Recipe``.
        activation: of the conditioners.

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 6,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        bound: float = 5.0,
        autoregressive: bool = False,
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
                spline = RationalQuadraticSpline(bins, bound)
                if autoregressive:
                    order = alternating_order(features, i)
                    return Autoregressive(features, spline, hidden, passes, order=order, context_features=context, activation=activation)
                return Coupling(features, spline, hidden, alternating_mask(features, i), context_features=context, activation=activation)

            marginals = Elementwise(features, RationalQuadraticSpline(bins, bound))
            return ~(marginals >> stack("NeuralSplineFlow", layers, layer, linear=features))

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
        self.bins, self.bound, self.autoregressive, self.passes = bins, bound, autoregressive, passes

    @classmethod
    def examples(cls) -> Iterator[tuple[str, NeuralSplineFlow]]:
        yield "plane", cls(2, layers=2, hidden=(8,), bins=4)
        yield "autoregressive", cls(3, 2, layers=2, hidden=(8,), bins=4, autoregressive=True)
        yield "classes", cls(2, layers=2, hidden=(8,), bins=4, classes=3)
        yield "line", cls(1, layers=1, bins=4)
