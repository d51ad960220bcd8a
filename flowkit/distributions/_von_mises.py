"""Draws, distribution function and its sensitivity for the von Mises law centred at zero, all elementwise."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

ROUNDS = 40  # a draw is left at the mode with probability 0.35^40, about 1e-18
NODES, WEIGHTS = np.polynomial.legendre.leggauss(128)
REACH = 14.0  # standard deviations beyond which the tail is below rounding


def draw(k: Tensor, generator: torch.Generator | None) -> Tensor:
    """Angles in [-pi, pi] with concentrations k, by rejection from a wrapped Cauchy law.

    1. With s = sin^2(angle / 2) the log-density is -2 k s up to a constant. The Cauchy proposal
       angle = 2 atan(g tan(phi)), phi uniform on (-pi/2, pi/2), has log-density -log(g^2 (1 - s) + s) up to a constant.
    2. Best and Fisher's optimal proposal is g^2 = 1 / v with v = 2 k + sqrt(1 + 4 k^2); k = 0 gives the uniform law.
    3. The log-ratio is -2 k s + log(1 + (v - 1) s); its maximum, at s = 1 / (v + 1), is -(v - 1) / (2 v) + log(2 v / (v + 1)).
    """
    v = 2 * k + torch.hypot(torch.ones_like(k), 2 * k)
    top = -0.5 * (1 - 1 / v) + torch.log(2 / (1 + 1 / v))
    angle, waiting = torch.zeros_like(k), torch.ones_like(k, dtype=torch.bool)
    for _ in range(ROUNDS):
        phi, level = torch.rand((2, *k.shape), generator=generator, dtype=k.dtype, device=k.device).unbind(0)
        phi = math.pi * (phi - 0.5)
        along, across = phi.cos(), phi.sin() * v.rsqrt()
        s = across.square() / (across.square() + along.square())
        # 1 - level lies in (0, 1], so the logarithm is finite
        accepted = waiting & (torch.log1p(-level) <= torch.log1p((v - 1) * s) - 2 * k * s - top)
        angle = torch.where(accepted, 2 * torch.atan2(across, along), angle)
        waiting = waiting & ~accepted
        if not bool(waiting.any()):
            break
    return angle


def centred_cdf(angle: Tensor, k: Tensor) -> Tensor:
    """P(X <= angle) for angles in [-pi, pi]."""
    t, weights, below = _nodes(angle, k)
    mass = (torch.exp(_exponent(t, below, k)) * weights).sum(-1)
    lower = mass * torch.exp(-2 * k * torch.sin(0.5 * below).square()) / (2 * math.pi * torch.special.i0e(k))
    return torch.where(angle < 0, lower, 1 - lower)


def slope(angle: Tensor, k: Tensor) -> Tensor:
    """d angle / d k at a fixed value of the distribution function: -(dF/dk) / p.

    On the lower half it is the integral of (I1(k)/I0(k) - cos t) exp(k (cos t - cos angle)) over t < angle, and it is odd.
    """
    t, weights, below = _nodes(angle, k)
    mean = (torch.special.i1e(k) / torch.special.i0e(k)).unsqueeze(-1)
    integral = ((mean - torch.cos(t)) * torch.exp(_exponent(t, below, k)) * weights).sum(-1)
    return -torch.sign(angle) * integral


def _nodes(angle: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre nodes and weights (*B, 128) on the tail below -|angle|, and -|angle|."""
    below = torch.where(angle < 0, angle, -angle)  # not -|angle|, which has no gradient at zero
    first = torch.maximum(below - REACH * k.rsqrt(), torch.full_like(below, -math.pi))
    half = 0.5 * (below - first).unsqueeze(-1)
    nodes = torch.as_tensor(NODES, dtype=half.dtype, device=half.device)
    weights = torch.as_tensor(WEIGHTS, dtype=half.dtype, device=half.device)
    return first.unsqueeze(-1) + half * (1 + nodes), half * weights, below


def _exponent(t: Tensor, below: Tensor, k: Tensor) -> Tensor:
    """k (cos t - cos below), at most zero, without cancellation."""
    below = below.unsqueeze(-1)
    return -2 * k.unsqueeze(-1) * torch.sin(0.5 * (t + below)) * torch.sin(0.5 * (t - below))
