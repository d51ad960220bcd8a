"""Increasing vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive


@DOMAINS.register("ordered")
class Ordered(Domain):
    """The cone {x_1 <= x_2 <= ... <= x_dim} in R^dim; unbounded, so it has no uniform law.

    Args:
        dim: number of coordinates.
    """

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        dim = positive(dim, "Ordered", "dim")
        self.dim = dim
        self.event_shape = (dim,)

    @property
    def trivial(self) -> bool:
        return self.dim == 1

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return torch.isfinite(x).all(-1) & (x[..., 1:] - x[..., :-1] >= -tol).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        steps = torch.arange(self.dim, dtype=x.dtype, device=x.device)
        return (steps - 0.5 * (self.dim - 1)).expand_as(x)

    def support_map(self) -> dict[str, Any] | None:
        return None if self.trivial else {"name": "to_ordered", "features": self.dim}

    def __repr__(self) -> str:
        return f"Ordered(dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Ordered]]:
        yield "three", cls(3)
