"""Unit spheres."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.domain._geodesics import angle_ratio, cosine, sine_ratio, sphere_volume
from flowkit.core.domain.manifold import Manifold
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive

ROUNDING = 64  # units of rounding that the length of a point may be off


@DOMAINS.register("sphere")
class Sphere(Manifold):
    """The unit sphere S^dim = {|x| = 1} in R^(dim + 1), with the metric of the space around it.

        exp_x(v) = cos|v| x + sin|v| v / |v|,   log_x(y) = angle(x, y) u / |u|,  u = y - (x . y) x

    Membership allows the rounding of a few operations. The cut locus of x is -x: ``log`` returns pi times the first vector of
    ``tangent_basis`` there. ``uniform`` draws normalised normal vectors.

    Args:
        dim: dimension of the sphere: 1 the circle, 2 the surface of a ball; events have dim + 1 coordinates.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Sphere
        >>> sphere = Sphere(2)
        >>> pole, equator = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> round(sphere.distance(pole, equator).item(), 4), round(sphere.volume, 4)
        (1.5708, 12.5664)
    """

    like: Tensor

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.dim = self.intrinsic_dim = positive(dim, "Sphere", "dim")
        self.coordinates = self.dim + 1
        self.event_shape = (self.dim + 1,)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def volume(self) -> float:
        return sphere_volume(self.dim)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return (torch.linalg.vector_norm(x, dim=-1) - 1).abs() <= tol + ROUNDING * torch.finfo(x.dtype).eps

    def safe_point(self, x: Tensor) -> Tensor:
        pole = torch.zeros_like(x)
        pole[..., -1] = 1.0
        return pole

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.project(torch.randn((n, self.dim + 1), generator=generator, dtype=self.like.dtype, device=self.like.device))

    def project(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        centre = length == 0
        return torch.where(centre, self.safe_point(x), x / torch.where(centre, torch.ones_like(length), length))

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - (x * v).sum(-1, keepdim=True) * x

    def tangent_basis(self, x: Tensor) -> Tensor:
        # a Householder reflection takes x to -sign(x_0) e_0, so that its other columns span the space across x
        sign = torch.where(x[..., :1] < 0, -torch.ones_like(x[..., :1]), torch.ones_like(x[..., :1]))
        mirror = torch.cat([x[..., :1] + sign, x[..., 1:]], dim=-1)
        scale = 2 / mirror.square().sum(-1, keepdim=True)
        eye = torch.eye(self.dim + 1, dtype=x.dtype, device=x.device)
        return eye[:, 1:] - (scale * mirror).unsqueeze(-1) * mirror[..., 1:].unsqueeze(-2)

    def geodesic_flow(self, x: Tensor, v: Tensor, t: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        time, square = self._time(t, x), v.square().sum(-1, keepdim=True)
        angle = square * time.square()
        c, s = cosine(angle), time * sine_ratio(angle)
        return c * x + s * v, c * v - square * s * x

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        along = (x * y).sum(-1, keepdim=True)
        across = self.project_tangent(x, self.project_tangent(x, y))  # once is not enough next to -x, where it leaves rounding along x
        ratio, lost = angle_ratio(across, along)
        opposite = lost & (along < 0)
        return torch.where(opposite, math.pi * self.tangent_basis(x)[..., 0], ratio * across)

    def squared_distances(self, x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT).clamp(-1, 1).acos().square()

    def __repr__(self) -> str:
        return f"Sphere(dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Sphere]]:
        yield "surface", cls(2)
        yield "circle", cls(1)
        yield "in_five", cls(4)
