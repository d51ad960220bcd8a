"""NAF: neural autoregressive flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._layers import autoregressions
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import DeepSigmoidal


@FLOWS.register("neural_autoregressive_flow", "naf")
class NeuralAutoregressiveFlow(Recipe):
    """Autoregressive layers of deep sigmoidal maps in alternating order.

    ``log_prob`` costs one pass; sampling one pass per group of coordinates, each with a root search over the whole line.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``.
        units: sigmoids per layer of each scalar map.
        depth: sigmoidal layers of each scalar map; more than one is the deep dense kind.
        passes: groups of coordinates per autoregressive layer; default D.

    Reference: Huang et al. (2018), Neural Autoregressive Flows, arXiv:1804.00779.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 3,
        hidden: Sequence[int] = (64, 64),
        units: int = 8,
        depth: int = 1,
        passes: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.units, self.depth, self.passes = self._count("units", units), self._count("depth", depth), self._count_or_none("passes", passes)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        return ~Chain(autoregressions(self, DeepSigmoidal(self.units, self.depth), context, self.passes))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, NeuralAutoregressiveFlow]]:
        yield "line", cls(1, layers=1, units=3)
        yield "conditional", cls(3, 2, layers=1, hidden=(8,), units=2, depth=2, passes=2)
