"""Configurations of particles whose mean is at the origin."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive

ROUNDING = 64  # units of rounding of the mean, per particle and unit of size, that a point of the set may carry


@DOMAINS.register("mean_free")
class MeanFree(Domain):
    """The subspace of R^(particles x dim) with sum over particles = 0: positions relative to their centre of mass.

    It has dimension (particles - 1) dim; volumes are counted in it, and ``tangent_basis`` gives an orthonormal basis.
    Membership allows the rounding of a few operations.

    Args:
        particles: number N of particles, at least 2.
        dim: coordinates of each.
    """

    def __init__(self, particles: int, dim: int = 3) -> None:
        super().__init__()
        particles = positive(particles, "MeanFree", "particles")
        dim = positive(dim, "MeanFree", "dim")
        self.particles, self.dim = particles, dim
        self.event_shape = (particles, dim)
        if particles < 2:
            raise ConfigError(f"MeanFree: expected particles >= 2; got {particles}. One particle alone has no position of its own.")

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        size = x.abs().flatten(-2).amax(-1, keepdim=True)
        slack = tol + ROUNDING * self.particles * torch.finfo(x.dtype).eps * (1 + size)
        return ((x.mean(-2).abs() <= slack) & torch.isfinite(size)).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, x less its mean: (*B, N, dim) -> (*B, N, dim)."""
        return x - x.mean(-2, keepdim=True)

    def tangent_basis(self, x: Tensor) -> Tensor:
        """Orthonormal basis of the subspace: (*B, N, dim) -> (*B, N dim, (N - 1) dim)."""
        n = self.particles
        index = torch.arange(1, n, dtype=x.dtype, device=x.device)
        # Helmert's contrasts: column k weighs the first k particles equally against the next one
        contrast = torch.ones((n, n - 1), dtype=x.dtype, device=x.device).triu() - torch.cat([torch.zeros_like(index).unsqueeze(0), index.diag_embed()])
        contrast = contrast / (index * (index + 1)).sqrt()
        basis = torch.kron(contrast, torch.eye(self.dim, dtype=x.dtype, device=x.device))
        return basis.expand(*x.shape[:-2], *basis.shape)

    def __repr__(self) -> str:
        return f"MeanFree(particles={self.particles}, dim={self.dim})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MeanFree]]:
        yield "four_in_space", cls(4, 3)
        yield "pair", cls(2, 1)
