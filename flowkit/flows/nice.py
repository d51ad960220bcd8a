"""NICE: additive coupling."""

from __future__ import annotations

from collections.abc import Iterator

from flowkit.bijectors import Affine, Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import couplings
from flowkit.flows._recipe import Recipe
from flowkit.univariates import Shift


@FLOWS.register("nice")
class NICE(Recipe):
    """Additive coupling layers on alternating coordinates, then a learned diagonal scale; both directions cost one pass.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.

    Reference: Dinh et al. (2015), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516.
    """

    def _maps(self, context: int) -> Bijector:
        return ~Chain([*couplings(self, Shift(), context), Affine(self.features)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, NICE]]:
        yield "plane", cls(2, layers=2, hidden=(8,))
        yield "conditional", cls(3, 2, layers=2, hidden=(8,))
        yield "classes", cls(2, layers=2, hidden=(8,), classes=3)
