"""Normalisation and draws of the von Mises-Fisher law on S^dim."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flowkit.core.domain._geodesics import sphere_volume

ROUNDS = 60  # a draw is left at the mode with probability below 0.35^60
NODES, WEIGHTS = np.polynomial.legendre.leggauss(160)
REACH = 12.0  # standard deviations beyond which the tail is below rounding


def log_mass(k: Tensor, dim: int) -> Tensor:
    """log int exp(-k |y - m|^2 / 2) dy over S^dim, differentiable in k > 0.

    With y at the angle a from m, |y - m|^2 / 2 = 2 sin^2(a / 2) and dy = |S^(dim - 1)| sin^(dim - 1)(a) da; on S^2 the
    integral over the cosine is elementary.
    """
    if dim == 2:
        return math.log(2 * math.pi) + (-torch.expm1(-2 * k) / k).log()
    with torch.no_grad():
        top = (REACH * (dim / k).sqrt()).clamp(max=math.pi)
    nodes, weights = torch.from_numpy(NODES).to(k), torch.from_numpy(WEIGHTS).to(k)
    angle = 0.5 * top.unsqueeze(-1) * (nodes + 1)
    exponent = (
        -2 * k.unsqueeze(-1) * torch.sin(0.5 * angle).square() + (dim - 1) * torch.sin(angle).clamp(min=1e-300 if k.dtype == torch.float64 else 1e-38).log()
    )
    around = 2.0 if dim == 1 else sphere_volume(dim - 1)
    return torch.logsumexp(exponent + (0.5 * weights * top.unsqueeze(-1)).log(), dim=-1) + math.log(around)


def draw_cosine(k: Tensor, dim: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Cosines w of the angle to the mean and their sines, by rejection.

    1. w has density prop. to exp(k w) (1 - w^2)^(dim / 2 - 1). With b = dim / (2 k + sqrt(4 k^2 + dim^2)) in (0, 1] and z from
       Beta(dim / 2, dim / 2), the proposal is w = (1 - (1 + b) z) / (1 - (1 - b) z).
    2. Its log-ratio to the target is k w + dim log(1 - x0 w) up to a constant, x0 = (1 - b) / (1 + b), largest at w = x0.
    3. 1 - w = 2 b z / (1 - (1 - b) z), which keeps small angles exact.
    """
    root = torch.hypot(2 * k, torch.full_like(k, float(dim)))
    b = dim / (2 * k + root)
    x0 = (1 - b) / (1 + b)
    lack, waiting = torch.zeros_like(k), torch.ones_like(k, dtype=torch.bool)
    for _ in range(ROUNDS):
        normal = torch.randn((2, dim, *k.shape), generator=generator, dtype=k.dtype, device=k.device).square().sum(1)
        z = normal[0] / normal.sum(0)
        short = 2 * b * z / (1 - (1 - b) * z)  # 1 - w
        # k (w - x0) + dim log((1 - x0 w) / (1 - x0^2)), with w = 1 - short
        gap = 1 - x0 - short
        ratio = k * gap + dim * torch.log1p(-x0 * gap / ((1 - x0) * (1 + x0)).clamp(min=torch.finfo(k.dtype).tiny))
        level = torch.rand(k.shape, generator=generator, dtype=k.dtype, device=k.device)
        accepted = waiting & (torch.log1p(-level) <= ratio)
        lack = torch.where(accepted, short, lack)
        waiting = waiting & ~accepted
        if not bool(waiting.any()):
            break
    return 1 - lack, (lack * (2 - lack)).clamp(min=0).sqrt()
