"""Tail probabilities of the standard normal and their quantiles, with the Gaussian factor taken out.

Write SF(v) = 1 - Phi(v) = exp(-max(v, 0)^2 / 2) q(v). Far out log SF is about -v^2 / 2, so a difference of two such
numbers loses all digits of what matters; log q(v) is about -log v there and keeps them. Half precision is worked out in
float32 and rounded at the end.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.tally import HALF_LOG_2PI

FAR = 25.0  # from here on the asymptotic series is exact to rounding, and derivatives of erfcx start to cancel
SERIES = (1.0, -1.0, 3.0, -15.0, 105.0, -945.0, 10395.0, -135135.0)  # of Mills' ratio times v, in powers of 1 / v^2


def at_least_single(value: Tensor) -> Tensor:
    """In float32, or float64 if it is: the special functions have no half precision, and too few digits in it."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def normal_cdf(x: Tensor) -> Tensor:
    """Phi(x) with all its digits in the left tail, where torch.special.ndtr has few or none."""
    return (0.5 * torch.special.erfc(-at_least_single(x) * math.sqrt(0.5))).to(x.dtype)


def log_q(v: Tensor) -> Tensor:
    """log q(v) = log SF(v) + max(v, 0)^2 / 2, for any v; differentiable twice."""
    return _log_q(at_least_single(v)).to(v.dtype)


def _log_q(v: Tensor) -> Tensor:
    inverse_square = v.clamp(min=FAR) ** -2
    series = torch.zeros_like(v)
    for coefficient in reversed(SERIES):
        series = series * inverse_square + coefficient
    far = series.log() - v.clamp(min=FAR).log() - HALF_LOG_2PI
    near = torch.log(0.5 * torch.special.erfcx(v.clamp(0.0, FAR) / math.sqrt(2)))
    below = torch.log1p(-0.5 * torch.erfc(-v.clamp(max=0.0) / math.sqrt(2)))
    return torch.where(v >= FAR, far, torch.where(v > 0, near, below))


def log_hazard(v: Tensor, log_q_v: Tensor) -> Tensor:
    """log of phi(v) / SF(v), given log q(v)."""
    return -0.5 * v.clamp(max=0.0).square() - HALF_LOG_2PI - log_q_v


def upper_quantile(reference: Tensor, log_tail: Tensor) -> Tensor:
    """x with SF(x) = exp(log_tail - reference^2 / 2), where that is at most about 1/2; gradients in ``log_tail``.

    Newton's method on log SF, which is concave: from above it converges monotonically, and it is exact to rounding after
    five steps from the bound SF(x) <= exp(-x^2 / 2) / 2. The last two steps carry the graph.

    Args:
        reference: a constant >= 0 of about the size of x; log_tail: (*S).
    """
    dtype, reference, log_tail = log_tail.dtype, at_least_single(reference), at_least_single(log_tail)
    with torch.no_grad():
        x = (reference.square() - 2 * (log_tail + math.log(2))).clamp(min=0).sqrt()
        # far out the square overflows before its root does
        x = torch.where(torch.isfinite(x), x, reference)
        for _ in range(4):
            x = _quantile_step(x, reference, log_tail)
    for _ in range(2):
        x = _quantile_step(x, reference, log_tail)
    return x.to(dtype)


def _quantile_step(x: Tensor, reference: Tensor, log_tail: Tensor) -> Tensor:
    positive, logs = x.clamp(min=0), log_q(x)
    above = logs - 0.5 * (positive - reference) * (positive + reference) - log_tail  # log SF(x) - log SF wanted
    return x + above * torch.exp(-log_hazard(x, logs))
