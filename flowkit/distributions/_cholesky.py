"""Lower triangular factors with a positive diagonal, from unconstrained matrices whose diagonal is its logarithm."""

from __future__ import annotations

import torch
from torch import Tensor


def lower_factor(raw: Tensor) -> Tensor:
    """Unconstrained (*K, D, D) -> L (*K, D, D), lower triangular, diagonal exp(raw_ii); the upper half is ignored."""
    return raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()


def raw_factor(lower: Tensor) -> Tensor:
    """Inverse of ``lower_factor``."""
    return lower.tril(-1) + lower.diagonal(dim1=-2, dim2=-1).log().diag_embed()


def log_volume(raw: Tensor) -> Tensor:
    """log det L: (*K, D, D) -> (*K)."""
    return raw.diagonal(dim1=-2, dim2=-1).sum(-1)


def whiten(raw: Tensor, difference: Tensor) -> Tensor:
    """L^-1 d for rows d, float32 at least: (*K, D, D), (*K, N, D) -> (*K, N, D)."""
    dtype = torch.promote_types(torch.promote_types(raw.dtype, difference.dtype), torch.float32)
    return torch.linalg.solve_triangular(lower_factor(raw).mT.to(dtype), difference.to(dtype), upper=True, left=False)
