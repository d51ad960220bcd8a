"""Neural spline flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain, Elementwise, LULinear
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import flag
from flowkit.core.transform import Bijector
from flowkit.flows._layers import autoregressions, couplings
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import RationalQuadraticSpline


@FLOWS.register("neural_spline_flow", "nsf")
class NeuralSplineFlow(Recipe):
    """Rational-quadratic spline layers with LU linear maps between them, and a spline per coordinate next to the data.

    Coupling by default: both directions cost one pass. ``autoregressive=True`` takes the order of MAF: ``log_prob`` costs one
    pass, sampling one pass per group of coordinates.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.
        bins: of each spline.
        bound: splines act on [-bound, bound] of standardised coordinates, the identity outside.
        autoregressive: masked autoregressive layers in place of coupling.
        passes: groups of coordinates per autoregressive layer; default D.

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
        **options: Unpack[Options],
    ) -> None:
        self.bins, self.bound, self.passes = self._count("bins", bins), bound, self._count_or_none("passes", passes)
        self.autoregressive = flag(autoregressive, "NeuralSplineFlow", "autoregressive")
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        spline = RationalQuadraticSpline(self.bins, self.bound)
        layers: list[Bijector] = (
            [*autoregressions(self, spline, context, self.passes)] if self.autoregressive else [*couplings(self, spline, context)]
        )
        steps: list[Bijector] = [Elementwise(self.features, spline)]
        for layer in layers:
            steps += [LULinear(self.features), layer]
        return ~Chain(steps)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, NeuralSplineFlow]]:
        yield "plane", cls(2, layers=2, hidden=(8,), bins=4)
        yield "autoregressive", cls(3, 2, layers=2, hidden=(8,), bins=4, autoregressive=True)
        yield "classes", cls(2, layers=2, hidden=(8,), bins=4, classes=3)
        yield "line", cls(1, layers=1, bins=4)
