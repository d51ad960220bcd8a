"""Cholesky factors of correlation matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive


@DOMAINS.register("correlation_cholesky")
class CorrelationCholesky(Domain):
    """Lower triangular (size, size) matrices with rows of length one and a diagonal >= 0.

    The size (size - 1) / 2 entries below the diagonal are free, each row of them in a unit ball; the diagonal follows.
    Volumes, and the uniform law, are counted in the free entries: ``tangent_basis`` gives their unit vectors. Membership
    allows the rounding of squared row lengths.

    Args:
        size: number of rows, at least 2.
    """

    like: Tensor

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        size = positive(size, "CorrelationCholesky", "size")
        self.size = size
        self.event_shape = (size, size)
        if size < 2:
            raise ConfigError(f"CorrelationCholesky: expected size >= 2; got {size}.")
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        above = (x.triu(1).abs() <= tol).flatten(-2).all(-1)
        slack = 2 * tol + 4 * self.size * torch.finfo(x.dtype).eps
        length = ((x.square().sum(-1) - 1).abs() <= slack).all(-1)
        return above & length & (x.diagonal(dim1=-2, dim2=-1) >= -tol).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.eye(self.size, dtype=x.dtype, device=x.device).expand_as(x)

    def tangent_basis(self, x: Tensor) -> Tensor:
        """Unit vectors of the free entries, row by row: (*B, size, size) -> (*B, size^2, size (size - 1) / 2)."""
        free = torch.ones((self.size, self.size), device=x.device).tril(-1).flatten().bool()
        basis = torch.eye(self.size**2, dtype=x.dtype, device=x.device)[:, free]
        return basis.expand(*x.shape[:-2], *basis.shape)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        dtype, device = self.like.dtype, self.like.device
        direction = torch.randn((n, self.size, self.size), generator=generator, dtype=dtype, device=device).tril(-1)
        dims = torch.arange(self.size, dtype=dtype, device=device).clamp(min=1)
        radius = torch.rand((n, self.size), generator=generator, dtype=dtype, device=device) ** (1 / dims) * (1 - 1e-6)
        length = torch.linalg.vector_norm(direction, dim=-1).clamp(min=torch.finfo(dtype).tiny)
        below = direction * (radius / length).unsqueeze(-1)
        return below + (1 - below.square().sum(-1)).clamp(min=0).sqrt().diag_embed()

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_correlation_cholesky", "size": self.size}

    def __repr__(self) -> str:
        return f"CorrelationCholesky(size={self.size})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CorrelationCholesky]]:
        yield "three", cls(3)
        yield "two", cls(2)
