"""Sum-of-squares polynomial flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import autoregressions
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import SumOfSquares


@FLOWS.register("sos_flow")
class SOSFlow(Recipe):
    """Autoregressive layers of increasing polynomials, x' = sum of squares, in alternating order.

    ``log_prob`` costs one pass; sampling one pass per group of coordinates, each with a root search. Towards data the maps
    are polynomials of degree 2 degree + 1 a layer, and straight lines beyond |z| = 5, so that an outlier's ``log_prob`` and
    its gradients stay finite.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.
        components: squares in each sum.
        degree: of each squared polynomial.
        passes: groups of coordinates per layer; default D.

    Reference: Jaini et al. (2019), Sum-of-Squares Polynomial Flow, arXiv:1905.02325.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 2,
        hidden: Sequence[int] = (64, 64),
        components: int = 3,
        degree: int = 3,
        passes: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.components, self.degree, self.passes = self._count("components", components), self._count("degree", degree), self._count_or_none("passes", passes)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        return ~Chain(autoregressions(self, SumOfSquares(self.components, self.degree), context, self.passes))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SOSFlow]]:
        yield "line", cls(1, layers=1, components=2, degree=2)
        yield "conditional", cls(3, 2, layers=1, hidden=(8,), components=2, degree=1, passes=2)
