"""Effective sample size of importance weights."""

from __future__ import annotations

import torch
from torch import Tensor


def ess(log_weights: Tensor, dim: int = -1) -> Tensor:
    """Kish's effective sample size, (sum w)^2 / sum w^2, between 1 and N; divide by N for the efficiency.

    Args:
        log_weights: log target minus log model, up to a constant; minus infinity is weight 0. Any shape.
        dim: the axis of the samples.

    Returns:
        ``log_weights`` without that axis; 0 where every weight is 0.

    Reference:
        Kish (1965), Survey sampling, section 11.7.
    """
    log_weights = log_weights.to(torch.promote_types(log_weights.dtype, torch.float32))
    top = log_weights.amax(dim, keepdim=True)
    weights = (log_weights - torch.where(torch.isneginf(top), torch.zeros_like(top), top)).exp()
    squares = weights.square().sum(dim)
    return weights.sum(dim).square() / torch.where(squares == 0, torch.ones_like(squares), squares)
