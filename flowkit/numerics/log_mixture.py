"""Log-densities of mixtures from those of their parts."""

from __future__ import annotations

import torch
from torch import Tensor


def log_mixture(parts: Tensor, dim: int) -> Tensor:
    """log sum exp along an axis, the weights of whose gradient sum to one: torch's own rounds far out, and there gives each tied part a weight of one."""
    top = parts.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    return (parts - top).logsumexp(dim) + top.squeeze(dim)
