"""Cholesky factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive


@DOMAINS.register("lower_cholesky")
class LowerCholesky(Domain):
    """Lower triangular (size, size) matrices with a diagonal >= 0: size (size + 1) / 2 free entries; unbounded.

    Volumes are counted in the free entries: ``tangent_basis`` gives their unit vectors.

    Args:
        size: number of rows.
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        size = positive(size, "LowerCholesky", "size")
        self.size = size
        self.event_shape = (size, size)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        above = (x.triu(1).abs() <= tol).flatten(-2).all(-1)
        return above & (x.diagonal(dim1=-2, dim2=-1) >= -tol).all(-1) & torch.isfinite(x).flatten(-2).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.eye(self.size, dtype=x.dtype, device=x.device).expand_as(x)

    def tangent_basis(self, x: Tensor) -> Tensor:
        """Unit vectors of the free entries, row by row: (*B, size, size) -> (*B, size^2, size (size + 1) / 2)."""
        free = torch.ones((self.size, self.size), device=x.device).tril().flatten().bool()
        basis = torch.eye(self.size**2, dtype=x.dtype, device=x.device)[:, free]
        return basis.expand(*x.shape[:-2], *basis.shape)

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_lower_cholesky", "size": self.size}

    def __repr__(self) -> str:
        return f"LowerCholesky(size={self.size})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LowerCholesky]]:
        yield "two", cls(2)
        yield "one", cls(1)
