"""Balls around the origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain._reflection import Reflection, count_hits
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

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume."""
        return 0.5 * self.dim * math.log(math.pi) - math.lgamma(0.5 * self.dim + 1) + self.dim * math.log(self.radius)

    @property
    def centre(self) -> Tensor:
        """The origin, (dim,)."""
        return self.like.new_zeros(self.dim)

    @property
    def half_width(self) -> Tensor:
        """The radius, as a tensor ()."""
        return torch.full_like(self.like, self.radius)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball, a rounding inside: (*B, dim) to itself."""
        held = self.radius * (1 - (4 + self.dim**0.5) * torch.finfo(x.dtype).eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        far = length > held
        return torch.where(far, x * (held / torch.where(far, length, 1.0)), x)

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """Fold the step x -> x + dx at the sphere, in closed form for any number of mirrors.

        1. The path leaves at q = x + s u, u = dx / |dx|, s = -x.u + D, D = sqrt((x.u)^2 + rho^2 - |x|^2). It stays in the plane
           of e1 = q / rho and u = cos(a) e1 + sin(a) e2, and cos(a) = D / rho.
        2. Every later chord is 2 D long and turned by theta = pi - 2 a, so k = floor((|dx| - s) / 2 D) more are passed whole, and
           the end is T^k (rho e1 + r (sin(a) e2 - cos(a) e1)), T the turn by theta, r the length that is left.
        3. With H the mirror at e1, the mirror at T^i e1 is T^i H T^-i, and H T^-1 H = T: the k + 1 mirrors compose in the plane
           to T^k H for even k and to T^(k + 1) for odd k, and leave what is normal to the plane alone.
        """
        x, dx = torch.broadcast_tensors(x, dx)
        z, rho, eps = x + dx, self.radius, torch.finfo(x.dtype).eps
        out = torch.linalg.vector_norm(z, dim=-1, keepdim=True) > rho
        step = torch.where(out, dx, 1.0)
        length = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
        u = step / length
        along = (x * u).sum(-1, keepdim=True)
        room = (rho**2 - x.square().sum(-1, keepdim=True)).clamp(min=0.0)
        half_chord = (along.square() + room).clamp(min=(eps**2 * rho) ** 2).sqrt()
        to_wall = torch.where(along > 0, room / (half_chord + along.clamp(min=0.0)), half_chord - along)
        e1 = x + to_wall * u
        e1 = e1 / torch.linalg.vector_norm(e1, dim=-1, keepdim=True)
        cos = half_chord / rho
        tangent = u - cos * e1
        size = tangent.square().sum(-1, keepdim=True)
        head_on = size < (8 * eps) ** 2  # e2 would be noise; every vector then serves, the null vector too
        sin = torch.where(head_on, 0.0, torch.where(head_on, 1.0, size).sqrt())
        e2 = torch.where(head_on, 0.0, tangent / torch.where(head_on, 1.0, sin))
        theta = 2 * torch.atan2(cos, sin)
        rest = (length - to_wall).clamp(min=0.0)
        turns = torch.floor((rest / (2 * half_chord)).detach())
        turn_cos, turn_sin = torch.cos(turns * theta), torch.sin(turns * theta)
        first, second = turn_cos * e1 + turn_sin * e2, turn_cos * e2 - turn_sin * e1
        end = rho * first + (rest - 2 * half_chord * turns) * (sin * second - cos * first)
        hits = count_hits(torch.where(out, turns + 1, 0.0).squeeze(-1).detach())
        return Reflection(self.project(torch.where(out, end, z)), _carry_in_plane(out, e1, e2, turns, theta), hits)

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_ball", "radius": self.radius, "features": self.dim}

    def __repr__(self) -> str:
        return f"Ball(radius={self.radius}, dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Ball]]:
        yield "disc", cls(2.0, 2)


def _carry_in_plane(out: Tensor, e1: Tensor, e2: Tensor, turns: Tensor, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> R^T v, R = T^k H for even k and T^(k + 1) for odd k in the plane of e1 and e2, T the turn by theta, H the mirror at e1."""
    odd = turns.remainder(2.0) != 0
    angle = torch.where(odd, turns + 1, turns) * theta
    cos, sin, sign = torch.cos(angle), torch.sin(angle), torch.where(odd, 1.0, -1.0)

    def carry(v: Tensor) -> Tensor:
        a, b = (v * e1).sum(-1, keepdim=True), (v * e2).sum(-1, keepdim=True)
        moved = v + (sign * (cos * a + sin * b) - a) * e1 + (cos * b - sin * a - b) * e2
        return torch.where(out, moved, v)

    return carry
