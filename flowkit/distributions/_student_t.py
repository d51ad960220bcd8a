"""Distribution function of Student's t, elementwise, by quadrature."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)
REACH = 40.0  # the integrand is followed down to exp(-40) of its largest value
HALF_LOG_PI = 0.5 * math.log(math.pi)


def tail(size: Tensor, df: Tensor, log_ratio: Tensor) -> Tensor:
    """P(T > size) for size >= 0, to about 1e-13 of itself for df >= 0.1; differentiable in everything.

    1. With t = sqrt(df) sinh(v) the density (1 + t^2/df)^(-(df+1)/2) dt is cosh(v)^(-df) dv up to constants, so
       P = exp(log_ratio) / sqrt(pi) times the integral of cosh(v)^(-df) over v > a, sinh(a) = size / sqrt(df),
       log_ratio = log Gamma((df+1)/2) - log Gamma(df/2).
    2. With v = a + h the integrand is (1 + size^2/df)^(-df/2) exp(-df g(h)), g(h) = log(cosh(h) + tanh(a) sinh(h)).
    3. It has fallen by exp(-REACH) at cosh(a + h) = cosh(a) exp(REACH / df): where Gauss's rule with 128 nodes ends.

    Args:
        size, df, log_ratio: broadcast to (*B).
    """
    size, df, log_ratio = torch.broadcast_tensors(size, df, log_ratio)
    square = size.square() / df
    slant = size * torch.rsqrt(df + size.square())  # tanh(a)
    log_cosh = 0.5 * torch.log1p(square)
    far = log_cosh + REACH / df
    arc = torch.asinh(size * df.rsqrt())
    # acosh(exp(far)) - a; no gradient is needed where the integrand has vanished
    reach = (far + torch.log1p(torch.sqrt(-torch.expm1(-2 * far))) - arc).detach()
    nodes = torch.as_tensor(0.5 * (NODES + 1), dtype=size.dtype, device=size.device)
    weights = torch.as_tensor(0.5 * WEIGHTS, dtype=size.dtype, device=size.device)
    h = reach.unsqueeze(-1) * nodes
    fall = torch.exp(-df.unsqueeze(-1) * _log_growth(h, slant.unsqueeze(-1)))
    integral = (fall * weights).sum(-1) * reach
    return torch.exp(log_ratio - HALF_LOG_PI - df * log_cosh) * integral


def _log_growth(h: Tensor, slant: Tensor) -> Tensor:
    """log(cosh(h) + slant sinh(h)) for h >= 0 and slant in [0, 1), without cancellation or overflow."""
    near, away = h.clamp(max=1.0), h.clamp(min=1.0)
    small = torch.log1p(2 * torch.sinh(0.5 * near).square() + slant * torch.sinh(near))
    large = away + torch.log(0.5 * (1 + slant) + 0.5 * (1 - slant) * torch.exp(-2 * away))
    return torch.where(h < 1.0, small, large)
