"""Functions of one number that several maps are made of, written so that they neither overflow nor cancel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def softplus_inverse(x: Tensor) -> Tensor:
    """z with softplus(z) = x, for x > 0; below the smallest normal number as at it."""
    x = x.clamp(min=torch.finfo(x.dtype).tiny)
    return x + torch.log(-torch.expm1(-x))


def log_sech(z: Tensor) -> Tensor:
    """log sech(z) = -log cosh(z), half the log-slope of tanh; all derivatives exact, at zero too, where that of abs is none."""
    size = torch.where(z < 0, -z, z)
    return math.log(2.0) - size - functional.softplus(-2 * size)


def soft_bounded(raw: Tensor, bound: float) -> Tensor:
    """bound tanh(raw / bound): a number within +-bound, about raw near zero."""
    return bound * torch.tanh(raw / bound)
