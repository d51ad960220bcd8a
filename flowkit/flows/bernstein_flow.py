"""Bernstein polynomial flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import autoregressions
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import Bernstein


@FLOWS.register("bernstein_flow")
class BernsteinFlow(Recipe):
    """Autoregressive layers of Bernstein polynomials with straight ends, in alternating order.

    ``log_prob`` costs one pass; sampling one pass per group of coordinates, each with a root search.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.
        degree: of each polynomial.
        bound: the polynomials act on [-bound, bound] of standardised coordinates; the maps are straight lines outside.
        passes: groups of coordinates per layer; default D.

    Reference: Sick et al. (2020), Deep transformation models, arXiv:2004.00464; Ramasinghe et al. (2021), arXiv:2102.03509.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        degree: int = 12,
        bound: float = 5.0,
        passes: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.degree, self.bound, self.passes = self._count("degree", degree), bound, self._count_or_none("passes", passes)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        return ~Chain(autoregressions(self, Bernstein(self.degree, self.bound), context, self.passes))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, BernsteinFlow]]:
        yield "line", cls(1, layers=1, degree=4)
        yield "conditional", cls(3, 2, layers=1, hidden=(8,), degree=3, passes=2)
