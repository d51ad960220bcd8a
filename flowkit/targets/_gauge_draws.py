"""Exact draws of a two-dimensional U(1) gauge field.

The plaquettes are independent von Mises angles but for one condition: their sum is a multiple of 2 pi. They are drawn one after the
other, each given the sum so far; the links follow by fixing a gauge, two loops round the lattice and a gauge transformation being uniform.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowkit.targets._gauge import TURN, links_inside, scaled_bessel, wrapped

SMALL = 1e-9  # below it the Best-Fisher envelope loses its digits; the law is uniform to that order


def drawn_links(count: int, size: int, beta: float, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """(count, 2, size, size), float64 throughout, on the device of ``like``."""
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": like.device}
    x = axial_links(drawn_plaquettes(count, size**2, beta, generator, like).reshape(count, size, size))
    loops, gauge = TURN * torch.rand((count, 2), **options), TURN * torch.rand((count, size, size), **options)
    x[:, 0, -1] += loops[:, :1]
    x[:, 1, :, -1] += loops[:, 1:]
    return links_inside(x + torch.stack([gauge - gauge.roll(-1, -2), gauge - gauge.roll(-1, -1)], dim=1))


def axial_links(p: Tensor) -> Tensor:
    """Links with those plaquettes (*B, L, L), whose sum is a multiple of 2 pi: theta_1 is 0 in row 0, theta_0 is 0 but in the last row."""
    right = torch.cat([torch.zeros_like(p[..., :1, :]), p[..., :-1, :].cumsum(-2)], dim=-2)
    columns = p.sum(-2)
    down = torch.zeros_like(p)
    down[..., -1, 1:] = -columns[..., :-1].cumsum(-1)
    return torch.stack([down, right], dim=-3)


def drawn_plaquettes(count: int, plaquettes: int, beta: float, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """(count, V): density proportional to exp(beta sum cos P) on the angles whose sum is a multiple of 2 pi."""
    ratios = scaled_bessel(beta)  # of orders 0, 1, .. in the first half
    ratios = ratios[: len(ratios) // 2]
    ratios = ratios / ratios[0]
    total = torch.zeros(count, dtype=torch.float64, device=like.device)
    angles = []
    for left in range(plaquettes - 1, 0, -1):
        powers = torch.as_tensor(ratios**left, device=like.device)
        angle = _next_angle(total, powers[: int((powers > 1e-18).sum())], beta, generator)
        angles.append(angle)
        total = wrapped(total + angle)
    return torch.stack([*angles, -total], dim=-1)


def _next_angle(total: Tensor, powers: Tensor, beta: float, generator: torch.Generator | None) -> Tensor:
    """By rejection: a von Mises angle is kept with probability g(total + angle) / g(0), g the density of the sum of those left."""
    order = torch.arange(1, len(powers), dtype=torch.float64, device=total.device)
    angle, missing = torch.zeros_like(total), torch.ones_like(total, dtype=torch.bool)
    while bool(missing.any()):
        proposal, kept = _von_mises(int(missing.sum()), beta, generator, total)
        waves = torch.cos((total[missing] + proposal).unsqueeze(-1) * order) @ powers[1:]
        share = (1 + 2 * waves) / float(1 + 2 * powers[1:].sum())
        kept &= torch.rand(kept.shape, generator=generator, dtype=torch.float64, device=total.device) < share
        place = missing.nonzero().squeeze(-1)[kept]
        angle[place] = proposal[kept]
        missing[place] = False
    return angle


def _von_mises(count: int, beta: float, generator: torch.Generator | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Proposals of the wrapped Cauchy envelope, and which of them are von Mises angles (Best, Fisher 1979, Applied Statistics 28, 152)."""
    first, second, third = torch.rand((3, count), generator=generator, dtype=torch.float64, device=like.device)
    if beta < SMALL:
        return TURN * (first - 0.5), torch.ones_like(first, dtype=torch.bool)
    tau = 1 + math.sqrt(1 + 4 * beta**2)
    rho = 2 * beta / (math.sqrt(tau) * (math.sqrt(tau) + math.sqrt(2)))  # (tau - sqrt(2 tau)) / (2 beta) without the difference
    centre = (1 + rho**2) / (2 * rho)
    z = torch.cos(math.pi * first)
    cosine = (1 + centre * z) / (centre + z)
    c = beta * (centre - cosine)
    kept = (c / second).log() + 1 - c >= 0
    return torch.where(third < 0.5, -1.0, 1.0) * torch.acos(cosine.clamp(-1.0, 1.0)), kept
