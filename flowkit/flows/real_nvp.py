"""Real NVP: affine coupling."""

from __future__ import annotations

from collections.abc import Iterator

from flowkit.bijectors import Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import couplings
from flowkit.flows._recipe import Recipe
from flowkit.univariates import Affine


@FLOWS.register("real_nvp")
class RealNVP(Recipe):
    """Affine coupling layers on alternating coordinates; both directions cost one pass.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803.
    """

    def _maps(self, context: int) -> Bijector:
        return ~Chain(couplings(self, Affine(), context))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RealNVP]]:
        yield "plane", cls(2, layers=2, hidden=(8,))
        yield "conditional", cls(3, 2, layers=2, hidden=(8,))
        yield "classes", cls(2, layers=2, hidden=(8,), classes=3)
