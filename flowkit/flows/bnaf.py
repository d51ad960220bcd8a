"""BNAF: block neural autoregressive flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import BlockAutoregressive, Chain, Permutation
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._recipe import Options, Recipe


@FLOWS.register("bnaf")
class BNAF(Recipe):
    """Block autoregressive layers in alternating order; ``log_prob`` costs one pass, sampling D searches a layer.

    Args:
        features, context_features, layers, ...: see ``Recipe``; ``activation`` is that of the context nets.
        hidden: units per feature in each hidden layer, at least one layer.

    Reference: De Cao, Titov and Aziz (2019), Block Neural Autoregressive Flow, arXiv:1904.04676.
    """

    def __init__(self, features: int, context_features: int = 0, layers: int = 3, hidden: Sequence[int] = (8, 8), **options: Unpack[Options]) -> None:
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        maps: list[Bijector] = []
        for layer in range(self.layers):
            if layer > 0 and self.features > 1:
                maps.append(Permutation.reverse(self.features))
            maps.append(BlockAutoregressive(self.features, self.hidden, context_features=context, activation=self.activation))
        return ~Chain(maps)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, BNAF]]:
        yield "plane", cls(2, layers=2, hidden=(4, 4))
        yield "conditional", cls(3, 2, layers=2, hidden=(4,))
        yield "classes", cls(2, layers=1, hidden=(4,), classes=3)
