"""Grids of integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import as_shape, whole_number


@DOMAINS.register("integers")
class Integers(Domain):
    """The grid {0, 1, ..., levels - 1} in every coordinate, as floats: pixel values, counts, grades.

    Args:
        levels: number of values.
        shape: event shape, sizes None for any.
    """

    like: Tensor

    def __init__(self, levels: int, shape: int | Sequence[int | None] = 1) -> None:
        super().__init__()
        self.levels, self.shape = whole_number(levels, "Integers", "levels", 2), shape
        self.event_shape = as_shape(shape, "Integers")
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def scale(self) -> float:
        return float(self.levels)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        inside = ((x - x.round()).abs() <= tol) & (x >= -tol) & (x <= self.levels - 1 + tol)
        rank = len(self.event_shape)
        return inside.flatten(-rank).all(-1) if rank else inside

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def tangent_basis(self, x: Tensor) -> Tensor:
        """Directions in which a point can move within the set: none, (*B, D, 0)."""
        size = x[..., None].flatten(-1 - len(self.event_shape)).shape[-1] if self.event_shape else 1
        return x.new_zeros((*x.shape[: x.dim() - len(self.event_shape)], size, 0))

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        sizes = [1 if size is None else size for size in self.event_shape]
        return torch.randint(self.levels, (n, *sizes), generator=generator, device=self.like.device).to(self.like.dtype)

    def __repr__(self) -> str:
        return f"Integers(levels={self.levels})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Integers]]:
        yield "pixels", cls(256, 2)
