"""MAF: masked autoregressive flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import autoregressions
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import Affine


@FLOWS.register("maf")
class MAF(Recipe):
    """Affine autoregressive layers in alternating order; ``log_prob`` costs one pass, sampling one pass per group of coordinates.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.
        passes: groups of coordinates per layer; default D, fully autoregressive.

    Reference: Papamakarios et al. (2017), Masked Autoregressive Flow for Density Estimation, arXiv:1705.07057.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 5,
        hidden: Sequence[int] = (64, 64),
        passes: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.passes = self._count_or_none("passes", passes)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        return ~Chain(autoregressions(self, Affine(), context, self.passes))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MAF]]:
        yield "plane", cls(2, layers=2, hidden=(8,))
        yield "conditional", cls(3, 2, layers=2, hidden=(8,))
        yield "classes", cls(2, layers=2, hidden=(8,), classes=3)
