"""Balls around the origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive


@DOMAINS.register("ball")
class Ball(Domain):
    """The closed ball {|x| <= radius} in R^dim.

    Args:
        radius: positive radius.
        dim: number of coordinates.
    """

    like: Tensor

    def __init__(self, radius: float = 1.0, dim: int = 2) -> None:
        super().__init__()
        dim = positive(dim, "Ball", "dim")
        if not radius > 0:
            raise ConfigError(f"Ball: expected radius > 0; got {radius}.")
        self.radius, self.dim = radius, dim
        self.event_shape = (dim,)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def scale(self) -> float:
        return max(1.0, self.radius)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1) <= self.radius + tol

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.25 * self.radius / self.dim**0.5)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        direction = torch.randn((n, self.dim), generator=generator, dtype=self.like.dtype, device=self.like.device)
        length = torch.rand((n, 1), generator=generator, dtype=self.like.dtype, device=self.like.device) ** (1.0 / self.dim)
        return direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True) * length * (self.radius * (1 - 1e-6))

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_ball", "radius": self.radius, "features": self.dim}

    def __repr__(self) -> str:
        return f"Ball(radius={self.radius}, dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Ball]]:
        yield "disc", cls(2.0, 2)
