"""Planar flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain, Planar
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._recipe import Options, Recipe


@FLOWS.register("planar_flow")
class PlanarFlow(Recipe):
    """Planar layers; sampling is closed and cheap, ``log_prob`` of given data finds one root a layer.

    Made for variational inference and other training by samples. Every layer starts as the identity.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``; ``hidden`` and ``activation`` are those of the context nets.

    Reference: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770.
    """

    def __init__(self, features: int, context_features: int = 0, layers: int = 16, hidden: Sequence[int] = (), **options: Unpack[Options]) -> None:
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        return Chain([Planar(self.features, context_features=context, hidden=self.hidden, activation=self.activation) for _ in range(self.layers)])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, PlanarFlow]]:
        yield "plane", cls(2, layers=3)
        yield "conditional", cls(3, 2, layers=2, hidden=(8,))
        yield "classes", cls(2, layers=2, classes=3)
