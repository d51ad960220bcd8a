"""Sylvester flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain, Sylvester
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._recipe import Options, Recipe


@FLOWS.register("sylvester_flow")
class SylvesterFlow(Recipe):
    """Sylvester layers; sampling is closed and cheap, ``log_prob`` of given data finds ``rank`` roots a layer.

    Made for variational inference and other training by samples. Every layer starts as the identity.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``; ``hidden`` and ``activation`` are those of the context nets.
        rank: M of each layer; default the smaller of D and 8.

    Reference: van den Berg et al. (2018), Sylvester Normalizing Flows for Variational Inference, arXiv:1803.05649.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 8,
        hidden: Sequence[int] = (),
        rank: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.rank = self._count_or_none("rank", rank)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        rank = min(self.features, 8) if self.rank is None else self.rank
        return Chain([Sylvester(self.features, rank, context_features=context, hidden=self.hidden, activation=self.activation) for _ in range(self.layers)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SylvesterFlow]]:
        yield "plane", cls(2, layers=2)
        yield "conditional", cls(3, 2, layers=2, hidden=(8,), rank=2)
        yield "classes", cls(2, layers=2, classes=3)
