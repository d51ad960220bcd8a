"""Gaussianization flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

from flowkit.bijectors import Chain, Elementwise, Householder
from flowkit.core.registry import FLOWS
from flowkit.core.transform import Bijector
from flowkit.flows._recipe import Options, Recipe
from flowkit.univariates import GaussianMixtureCDF


@FLOWS.register("gaussianization")
class Gaussianization(Recipe):
    """Rotations by turns with the map that makes each coordinate standard normal, from data to latent.

    ``log_prob`` costs one pass; so does sampling, with a root search per coordinate. With a context the mixtures depend on it,
    the rotations do not.

    Args:
        features, context_features, layers, hidden, ...: see ``Recipe``; ``hidden`` is used with a context only.
        components: of each coordinate's normal mixture.
        reflections: Householder reflections per rotation; default D, which reaches every rotation or its mirror image.

    Reference: Meng et al. (2020), Gaussianization Flows, arXiv:2003.01941; Chen and Gopinath (2000), Gaussianization, NeurIPS.
    """

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        layers: int = 6,
        hidden: Sequence[int] = (64,),
        components: int = 8,
        reflections: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.components, self.reflections = self._count("components", components), self._count_or_none("reflections", reflections)
        super().__init__(features, context_features, layers, hidden, **options)

    def _maps(self, context: int) -> Bijector:
        univariate, steps = GaussianMixtureCDF(self.components), list[Bijector]()
        for layer in range(self.layers):
            if layer and self.features > 1:
                steps.append(Householder(self.features, self.features if self.reflections is None else self.reflections))
            steps.append(Elementwise(self.features, univariate, context_features=context, hidden=self.hidden, activation=self.activation))
        return ~Chain(steps)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Gaussianization]]:
        yield "space", cls(3, layers=2, components=2)
        yield "line", cls(1, layers=1, components=3)
        yield "conditional", cls(3, 2, layers=1, hidden=(8,), components=2)
