"""Autoregressive flow of unconstrained monotonic neural networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import autoregressions
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import MonotoneIntegral


@FLOWS.register("umnn_flow")
class UMNNFlow(Recipe):
    """Autoregressive layers whose scalar maps are integrals of positive nets, in alternating order.

    ``log_prob`` costs one pass and ``nodes`` evaluations of each positive net; sampling one pass per group of coordinates, each
    with a root search.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.
        units: hidden units of each positive net.
        bound: the nets act on [-bound, bound] of standardised coordinates; the maps are straight lines outside.
        nodes: of the quadrature rule.
        passes: groups of coordinates per layer; default D.

    Reference: Wehenkel and Louppe (2019), Unconstrained Monotonic Neural Networks, arXiv:1908.05164, section 3.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        units: int = 8,
        bound: float = 5.0,
        nodes: int = 64,
        passes: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.units, self.bound, self.nodes = self._count("units", units), bound, self._count("nodes", nodes)
        self.passes = self._count_or_none("passes", passes)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        return ~Chain(autoregressions(self, MonotoneIntegral(self.units, self.bound, nodes=self.nodes), context, self.passes))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UMNNFlow]]:
        yield "line", cls(1, layers=1, units=2, nodes=48)
        yield "conditional", cls(3, 2, layers=1, hidden=(8,), units=2, nodes=48, passes=2)
