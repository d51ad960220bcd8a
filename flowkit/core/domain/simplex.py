"""The solid simplex, in coordinates that keep its dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain._reflection import Reflection, by_rows, reflect_in_facets
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

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume, -log(dim!)."""
        return -math.lgamma(self.dim + 1)

    @property
    def centre(self) -> Tensor:
        """Equal proportions, (dim,)."""
        return self.like.new_full((self.dim,), 1.0 / (self.dim + 1))

    @property
    def half_width(self) -> Tensor:
        """Half of each proportion's range, 1/2."""
        return torch.full_like(self.like, 0.5)

    def _held(self, x: Tensor) -> Tensor:
        """A point outside by rounding, put inside."""
        x = x.clamp(min=0.0)
        total, most = x.sum(-1, keepdim=True), 1 - (4 + self.dim) * torch.finfo(x.dtype).eps
        return torch.where(total > most, x * (most / torch.where(total > most, total, 1.0)), x)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the simplex: (*B, dim) to itself.

        Negative coordinates become 0; if the rest then sums to more than 1, all lose the same tau > 0 first, found by sorting.
        """
        ordered = x.sort(dim=-1, descending=True).values
        counts = torch.arange(1, self.dim + 1, dtype=x.dtype, device=x.device)
        level = (ordered.cumsum(-1) - 1) / counts
        used = (ordered > level).sum(-1, keepdim=True).clamp(min=1)
        tau = torch.where(x.clamp(min=0.0).sum(-1, keepdim=True) > 1, level.gather(-1, used - 1), 0.0)
        return self._held(x - tau)

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """Mirror the step x -> x + dx in the facets it meets, one after the other."""
        normals = torch.cat([-torch.eye(self.dim, dtype=x.dtype, device=x.device), x.new_full((1, self.dim), self.dim**-0.5)])

        def slack(point: Tensor) -> Tensor:
            return torch.cat([point, (1 - point.sum(-1, keepdim=True)) * self.dim**-0.5], dim=-1)

        def fold(start: Tensor, step: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor]:
            end, carry, hits = reflect_in_facets(start, step, slack, normals)
            return self._held(end), carry, hits

        return by_rows(fold, x, dx)

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_simplex", "features": self.dim}

    def __repr__(self) -> str:
        return f"Simplex(dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Simplex]]:
        yield "triangle", cls(2)
