"""Logarithms of normal probabilities and their inverse, far into the tails; half precision is worked out in float32."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flowkit.numerics.normal_tails import HALF_LOG_2PI, at_least_single, log_q

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
NARROW = 2.0  # (b - a) times the size of the score: below it 16 Gauss nodes are exact
FAR = -10.0  # of log p: from here on the quantile starts at its asymptote


def log_interval(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """P(a < X < b) of a standard normal for finite a < b, without cancellation far out: (e, m) with log P = m - e^2 / 2.

    e is the point of the interval with the highest density (an end, or zero): densities relative to P need e^2 only in
    differences. The interval is turned to the left tail, where Phi keeps its digits; a narrow one, whose ends have almost
    equal Phi, is integrated.
    """
    dtype, a, b = torch.promote_types(a.dtype, b.dtype), at_least_single(a), at_least_single(b)
    turned = a + b > 0
    first, last = torch.where(turned, -b, a), torch.where(turned, -a, b)
    width = last - first
    narrow = width * (1 + first.abs()) < NARROW
    # each branch sees arguments of its own kind only
    strip = _log_strip(torch.where(narrow, last, 0.0), torch.where(narrow, width, 1.0))
    lower, upper = torch.where(narrow, -1.0, first), torch.where(narrow, 0.0, last)
    log_ratio = _log_scaled(lower) - _log_scaled(upper) - 0.5 * (_top(lower) - _top(upper)) * (_top(lower) + _top(upper))
    wide = _log_scaled(upper) + torch.log(-torch.expm1(log_ratio))
    top = _top(last)
    return torch.where(turned, -top, top).to(dtype), torch.where(narrow, strip, wide).to(dtype)


def log_ndtr(x: Tensor) -> Tensor:
    """log Phi(x) of finite x; torch's own has no vmap rule."""
    single = at_least_single(x)
    return (_log_scaled(single) - 0.5 * _top(single).square()).to(x.dtype)


def _top(last: Tensor) -> Tensor:
    """The point of (-inf, last] with the highest density."""
    return torch.where(last < 0, last, 0.0)


def _log_scaled(x: Tensor) -> Tensor:
    """log Phi(x) + min(x, 0)^2 / 2."""
    return log_q(-x)


def _log_strip(last: Tensor, width: Tensor) -> Tensor:
    """log of the integral of the density over ``width`` up to ``last``, times exp(min(last, 0)^2 / 2), by Gauss's rule."""
    nodes = torch.as_tensor(0.5 * (NODES + 1), dtype=last.dtype, device=last.device)
    weights = torch.as_tensor(0.5 * WEIGHTS, dtype=last.dtype, device=last.device)
    step = width.unsqueeze(-1) * nodes
    fall = torch.exp(step * (last.unsqueeze(-1) - 0.5 * step))
    above = torch.where(last < 0, 0.0, last)
    return width.log() + (fall * weights).sum(-1).log() - 0.5 * above.square() - HALF_LOG_2PI


def log_ndtri(log_p: Tensor) -> Tensor:
    """x with log Phi(x) = log_p, for log_p <= log(1/2) down to about -1e18 in float32; differentiable.

    Newton's method on log Phi, which is concave, from the quantile of exp(log_p) or, far out, from the asymptote.
    """
    dtype, log_p = log_p.dtype, at_least_single(log_p)
    with torch.no_grad():
        near = torch.special.ndtri(log_p.clamp(min=FAR).exp())
        square = -2 * log_p.clamp(max=FAR)
        # log Phi(x) is about -x^2/2 - log(|x| sqrt(2 pi)) far out
        far = -torch.sqrt(square - square.log() - math.log(2 * math.pi))
        x = _newton(torch.where(log_p > FAR, near, far), log_p, 4)
    return (_newton(x, log_p, 2) if torch.is_grad_enabled() else x).to(dtype)


def _newton(x: Tensor, log_p: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        reached = log_ndtr(x)
        x = x - (reached - log_p) * torch.exp(reached + 0.5 * x.square() + HALF_LOG_2PI)
    return x
