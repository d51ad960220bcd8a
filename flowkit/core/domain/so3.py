"""Rotations in space."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.domain._geodesics import axis_angle, hat, quaternion_rotation, rotation, vee
from flowkit.core.domain.manifold import Manifold
from flowkit.core.registry import DOMAINS

ROUNDING = 64  # units of rounding that R'R may be off the identity


@DOMAINS.register("so3")
class SO3(Manifold):
    """The rotations {R (3, 3): R'R = 1, det R = 1}, with the metric in which the distance of two is the angle between them.

    A tangent vector at R is R W with W skew, W a = w x a; its norm is |w|, that of the matrix over sqrt(2). The volume is
    8 pi^2, so the uniform (Haar) density is 1 / (8 pi^2).

        exp_R(R W) = R rotation(w),   log_R(S) = R W with w the axis angle of R'S

    The cut locus of R are the rotations by pi away from it: ``log`` picks one of the two ways. ``tangent_basis`` is orthonormal
    in R^9 and so of length 1 / sqrt(2) in the metric. ``project`` is the nearest rotation (Frobenius), by a singular value
    decomposition; ``retract`` orthonormalises the rows in turn, which is cheaper and smooth.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import SO3
        >>> half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
        >>> round(SO3().distance(torch.eye(3), half_turn).item(), 4)
        3.1416
    """

    like: Tensor
    event_shape = (3, 3)
    intrinsic_dim = 3
    coordinates = 9

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.zeros(()), persistent=False)

    @property
    def volume(self) -> float:
        return 8 * math.pi**2

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        excess = x.mT @ x - torch.eye(3, dtype=x.dtype, device=x.device)
        close = excess.abs().flatten(-2).amax(-1) <= tol + ROUNDING * torch.finfo(x.dtype).eps
        return close & ((torch.linalg.cross(x[..., 0, :], x[..., 1, :]) * x[..., 2, :]).sum(-1) > 0)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.eye(3, dtype=x.dtype, device=x.device).expand_as(x)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        q = torch.randn((n, 4), generator=generator, dtype=self.like.dtype, device=self.like.device)
        return quaternion_rotation(q / torch.linalg.vector_norm(q, dim=-1, keepdim=True))

    def project(self, x: Tensor) -> Tensor:
        """The nearest rotation: (*B, 3, 3) -> (*B, 3, 3), differentiable once.

        1. With the singular value decomposition x = U S V' it is R = U diag(1, 1, det(U V')) V'.
        2. R'x = P is symmetric, and a change dx changes R to R hat(a), (tr P - P) a = 2 vee(R'dx). The decomposition's own
           derivative would divide by differences of singular values, which are all 1 on the manifold.
        """
        with torch.no_grad():
            u, _, vt = torch.linalg.svd(torch.where(torch.isfinite(x), x, torch.zeros_like(x)))
            last = vt[..., 2:, :] * torch.linalg.det(u @ vt)[..., None, None]
            nearest = u @ torch.cat([vt[..., :2, :], last], dim=-2)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return nearest
        turned = nearest.mT @ x
        fixed = turned.detach()
        stiff = fixed.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * torch.eye(3, dtype=x.dtype, device=x.device) - fixed
        change = torch.linalg.solve(stiff, 2 * vee(turned).unsqueeze(-1)).squeeze(-1)
        return nearest @ rotation(change)

    def retract(self, x: Tensor) -> Tensor:
        first = x[..., 0, :] / torch.linalg.vector_norm(x[..., 0, :], dim=-1, keepdim=True)
        second = x[..., 1, :] - (first * x[..., 1, :]).sum(-1, keepdim=True) * first
        second = second / torch.linalg.vector_norm(second, dim=-1, keepdim=True)
        return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)

    def project_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        turned = x.mT @ v
        return x @ (0.5 * (turned - turned.mT))

    def tangent_basis(self, x: Tensor) -> Tensor:
        axes = hat(torch.eye(3, dtype=x.dtype, device=x.device)) / math.sqrt(2)
        return (x.unsqueeze(-3) @ axes).flatten(-2).mT

    def squared_norm(self, x: Tensor, v: Tensor) -> Tensor:
        return 0.5 * super().squared_norm(x, v)

    def geodesic_flow(self, x: Tensor, v: Tensor, t: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        omega = vee(x.mT @ v)
        time = torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1)
        point = x @ rotation(time * omega)
        return point, point @ hat(omega)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ hat(axis_angle(x.mT @ y))

    def squared_distances(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = 0.5 * (x.flatten(1) @ y.flatten(1).mT - 1)  # tr(x'y) = 1 + 2 cos(angle)
        return cosine.clamp(-1, 1).acos().square()

    def __repr__(self) -> str:
        return "SO3()"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SO3]]:
        yield "rotations", cls()
