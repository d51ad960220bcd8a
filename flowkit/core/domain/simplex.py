"""The solid simplex, in coordinates that keep its dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive


@DOMAINS.register("simplex")
class Simplex(Domain):
    """The simplex {x >= 0, sum(x) <= 1} in R^dim; the last proportion is 1 - sum(x).

    Args:
        dim: number of free proportions (one less than the number of parts).
    """

    like: Tensor

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        dim = positive(dim, "Simplex", "dim")
        self.dim = dim
        self.event_shape = (dim,)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return (x >= -tol).all(-1) & (x.sum(-1) <= 1 + tol)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 1.0 / (self.dim + 1))

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        unit = torch.rand((n, self.dim + 1), generator=generator, dtype=self.like.dtype, device=self.like.device)
        spacing = -torch.log1p(-unit)
        return (spacing / spacing.sum(-1, keepdim=True))[..., :-1] * (1 - 1e-6)

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_simplex", "features": self.dim}

    def __repr__(self) -> str:
        return f"Simplex(dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Simplex]]:
        yield "triangle", cls(2)
