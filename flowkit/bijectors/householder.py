"""Orthogonal maps as products of reflections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("householder")
class Householder(Bijector):
    """x = H_m ... H_1 z with H = I - 2 v v^T / |v|^2; orthogonal, log_det = 0.

    Directions start in equal pairs, so an even number of reflections starts as the identity.
    Each direction costs m products of O(D).

    Args:
        features: D.
        reflections: m.

    Reference: Tomczak and Welling (2016), Householder flow, arXiv:1611.09630, equations 9 to 11.
    """

    traits = Traits(jacobian="constant", volume_preserving=True)

    def __init__(self, features: int, reflections: int = 2) -> None:
        super().__init__()
        self.features, self.reflections = positive(features, "Householder", "features"), positive(reflections, "Householder", "reflections")
        self.in_shape = self.out_shape = (features,)
        self.directions = nn.Parameter(torch.randn((reflections + 1) // 2, features).repeat_interleave(2, dim=0)[:reflections].clone())

    def _reflect(self, value: Tensor, directions: Tensor) -> Tensor:
        for v in directions.unbind(0):
            value = value - 2 * (value * v).sum(-1, keepdim=True) * (v / v.square().sum())
        return value

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._reflect(z, self.directions), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._reflect(x, self.directions.flip(0)), zeros_log_det(x, self.in_shape)

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Householder) or following.in_shape != self.in_shape:
            return None
        return self._copy(torch.cat([self.directions, following.directions]))

    def inverted(self) -> Householder:
        return self._copy(self.directions.flip(0))

    @torch.no_grad()
    def _copy(self, directions: Tensor) -> Householder:
        made = Householder(self.features, len(directions)).to(directions)
        made.directions.copy_(directions)
        return made

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Householder]]:
        yield "pair", cls(3, 2)
        yield "three", cls(4, 3)
