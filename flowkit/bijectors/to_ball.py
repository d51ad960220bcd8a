"""From R^n onto a ball."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import Solve, carry_forward_solved
from flowkit.core.domain.ball import Ball
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector


@BIJECTORS.register("to_ball")
class ToBall(Bijector):
    """R^D onto the open ball: x = radius z / sqrt(1 + |z|^2), log_det = D log radius - (D + 2) / 2 log(1 + |z|^2).

    Args:
        radius, features: as ``radius``, ``dim`` of ``Ball``.
    """

    traits = Traits(score="closed")

    def __init__(self, radius: float = 1.0, features: int = 2) -> None:
        super().__init__()
        features = positive(features, "ToBall", "features")
        self.radius, self.features = radius, features
        self._codomain = Ball(radius, features)
        self.in_shape = self.out_shape = (features,)

    def _log_det(self, z: Tensor) -> Tensor:
        return self.features * math.log(self.radius) - 0.5 * (self.features + 2) * torch.log1p(sum_event(z.square(), 1))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        length = torch.sqrt(1 + z.square().sum(-1, keepdim=True))
        return z * (self.radius * (1 - 2 * torch.finfo(z.dtype).eps)) / length, self._log_det(z)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        eps = torch.finfo(x.dtype).eps
        unit = x / (self.radius * (1 - 2 * eps))
        length = unit.square().sum(-1, keepdim=True)
        z = unit / torch.sqrt((1 - length).clamp(min=eps))
        return z, -self._log_det(z)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v = (l / radius) (v + z (z.v)), as J = (radius / l) (I - z z' / l^2) with l^2 = 1 + |z|^2."""
        x, log_det = self._forward(z, None, None)

        def solve(v: Tensor) -> Tensor:
            length = torch.sqrt(1 + z.square().sum(-1, keepdim=True))
            return (v + z * (z * v).sum(-1, keepdim=True)) * (length / self.radius)

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToBall]]:
        yield "disc", cls(2.0, 2)
