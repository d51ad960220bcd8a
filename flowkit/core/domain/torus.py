"""Flat tori."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.domain.manifold import Manifold
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive

TURN = 2 * math.pi


@DOMAINS.register("torus")
class Torus(Manifold):
    """The flat torus of ``dim`` angles in [-pi, pi); volume (2 pi)^dim, distances |wrap(y - x)|.

    exp_x(v) = wrap(x + v), log_x(y) = wrap(y - x), with wrap(a) = a - 2 pi floor((a + pi) / 2 pi). The cut locus of x are the
    points with an angle half a turn away: ``log`` goes there downwards, by -pi. pi itself is written -pi; ``project`` wraps.

    Args:
        dim: number of angles.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Torus
        >>> round(Torus(1).log(torch.tensor([3.0]), torch.tensor([-3.0])).item(), 4)
        0.2832
    """

    like: Tensor

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.dim = self.intrinsic_dim = positive(dim, "Torus", "dim")
        self.coordinates = 2 * self.dim
        self.event_shape = (self.dim,)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def scale(self) -> float:
        return math.pi

    @property
    def volume(self) -> float:
        return TURN**self.dim

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return ((x >= -math.pi - tol) & (x < math.pi + tol)).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        unit = torch.rand((n, self.dim), generator=generator, dtype=self.like.dtype, device=self.like.device)
        return self.project(TURN * unit - math.pi)

    def project(self, x: Tensor) -> Tensor:
        turns = torch.floor((x + math.pi) / TURN)
        wrapped = x - TURN * turns
        wrapped = torch.where(wrapped >= math.pi, wrapped - TURN, wrapped)  # rounding at the seam
        return torch.where(wrapped < -math.pi, torch.full_like(wrapped, -math.pi), wrapped)

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def tangent_basis(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        return eye.expand(*x.shape[:-1], self.dim, self.dim)

    def geodesic_flow(self, x: Tensor, v: Tensor, t: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        return self.project(x + self._time(t, x) * v), v.expand_as(x)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.project(y - x)

    def squared_distances(self, x: Tensor, y: Tensor) -> Tensor:
        return self.project(x.unsqueeze(1) - y).square().sum(-1)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([x.cos(), x.sin()], dim=-1)

    def __repr__(self) -> str:
        return f"Torus(dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Torus]]:
        yield "two_angles", cls(2)
        yield "circle", cls(1)
