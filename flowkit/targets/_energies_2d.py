"""The formulas of the densities in the plane."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowkit.numerics.log_mixture import log_mixture

Formula = Callable[[Tensor, Tensor], Tensor]
EDGE, EDGE_WIDTH = 4.0, 0.1  # where the three strips end, and how softly


@dataclass(frozen=True)
class Energy:
    """A density of the plane.

    Args:
        log_density: of the two coordinates.
        log_normalizer: gives the log of its integral.
        invariances: names of its symmetries.
    """

    log_density: Formula
    log_normalizer: Callable[[], float]
    invariances: tuple[str, ...] = field(default=())


def radius(x: Tensor, y: Tensor) -> Tensor:
    """|x|, with slope zero at the origin."""
    square = x.square() + y.square()
    away = ~(square <= torch.finfo(square.dtype).tiny)  # NaN stays NaN
    return torch.where(away, torch.where(away, square, 1.0).sqrt(), 0.0)


def bump(x: Tensor, centre: float | Tensor, width: float) -> Tensor:
    """-(x - centre)^2 / (2 width^2)."""
    return -0.5 * ((x - centre) / width).square()


def log_sum(*parts: Tensor) -> Tensor:
    """log of the sum of the exponentials."""
    return log_mixture(torch.stack(torch.broadcast_tensors(*parts)), 0)


def ring_and_two(x: Tensor, y: Tensor, *, ring: float, sides: float) -> Tensor:
    """A ring of radius 2 and that width, of which the parts near x = -2 and x = 2 are kept."""
    return bump(radius(x, y), 2.0, ring) + log_sum(bump(x, -2.0, sides), bump(x, 2.0, sides))


def rings(x: Tensor, y: Tensor) -> Tensor:
    r = radius(x, y)
    return log_sum(*(bump(r, float(k), 0.15) for k in range(1, 5)))


def banana(x: Tensor, y: Tensor) -> Tensor:
    return -((1 - x).square() + 100 * (y - x.square()).square()) / 20


def eight_gaussians(x: Tensor, y: Tensor) -> Tensor:
    turns = [k * math.pi / 4 for k in range(8)]
    return log_sum(*(bump(x, 4 * math.cos(turn), 0.5) + bump(y, 4 * math.sin(turn), 0.5) for turn in turns))


MUELLER_BROWN = (  # height, a, b, c, x, y: height exp(a (x - x0)^2 + b (x - x0)(y - y0) + c (y - y0)^2)
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)
MOST = 20.0  # the exponent of the rising term is held there: the potential is 7e9 by then


def mueller_brown(x: Tensor, y: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for height, a, b, c, x0, y0 in MUELLER_BROWN:
        u, v = x - x0, y - y0
        total = total + height * (a * u.square() + b * u * v + c * v.square()).clamp(max=MOST).exp()
    return -total / 20


def window(x: Tensor) -> Tensor:
    """Zero for |x| <= 4, quickly falling outside."""
    return -0.5 * ((x.abs() - EDGE).clamp(min=0.0) / EDGE_WIDTH).square()


def wave(x: Tensor) -> Tensor:
    """w_1 = sin(pi x / 2)."""
    return torch.sin(0.5 * math.pi * x)


def one_wave(x: Tensor, y: Tensor) -> Tensor:
    return bump(y, wave(x), 0.4) + window(x)


def fork(x: Tensor, y: Tensor) -> Tensor:
    apart = 3 * bump(x, 1.0, 0.6).exp()
    return log_sum(bump(y, wave(x), 0.35), bump(y, wave(x) - apart, 0.35)) + window(x)


def step(x: Tensor, y: Tensor) -> Tensor:
    apart = 3 * torch.sigmoid((x - 1.0) / 0.3)
    return log_sum(bump(y, wave(x), 0.4), bump(y, wave(x) - apart, 0.35)) + window(x)


def strip(*widths: float) -> Callable[[], float]:
    """The normalizer of normals in y of those widths along the window in x."""
    length = 2 * EDGE + EDGE_WIDTH * math.sqrt(2 * math.pi)
    return lambda: math.log(length * math.sqrt(2 * math.pi) * sum(widths))


def ring_mass() -> float:
    """sum over k of 2 pi times the integral of r exp(-(r - k)^2 / (2 s^2)) over r > 0, in closed form."""
    s = 0.15
    parts = (s**2 * math.exp(-0.5 * (k / s) ** 2) + k * s * math.sqrt(math.pi / 2) * (1 + math.erf(k / (s * math.sqrt(2)))) for k in range(1, 5))
    return math.log(2 * math.pi * sum(parts))


def integrated(formula: Formula, low: tuple[float, float], high: tuple[float, float], cells: int = 800) -> Callable[[], float]:
    """The normalizer by the trapezoidal rule, exact to rounding for a smooth density that vanishes at the ends; computed once."""

    @functools.cache
    def log_mass() -> float:
        lines = [torch.linspace(a, b, cells + 1, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        x, y = torch.meshgrid(*lines, indexing="ij")
        area = math.prod((b - a) / cells for a, b in zip(low, high, strict=True))
        with torch.no_grad():
            return float(formula(x, y).flatten().logsumexp(0)) + math.log(area)

    return log_mass


TWO_MOONS = functools.partial(ring_and_two, ring=0.2, sides=0.3)
FIRST = functools.partial(ring_and_two, ring=0.4, sides=0.6)
ENERGIES: dict[str, Energy] = {
    "two_moons": Energy(TWO_MOONS, integrated(TWO_MOONS, (-5.0, -5.0), (5.0, 5.0)), ("mirror", "sign")),
    "rings": Energy(rings, ring_mass, ("rotation", "reflection", "permutation", "sign")),
    "banana": Energy(banana, lambda: math.log(2 * math.pi)),
    "eight_gaussians": Energy(eight_gaussians, lambda: math.log(8 * 2 * math.pi * 0.25), ("mirror", "sign", "permutation")),
    "mueller_brown": Energy(mueller_brown, integrated(mueller_brown, (-6.0, -4.0), (4.0, 6.0))),
    "rezende_mohamed_1": Energy(FIRST, integrated(FIRST, (-7.0, -7.0), (7.0, 7.0)), ("mirror", "sign")),
    "rezende_mohamed_2": Energy(one_wave, strip(0.4), ("sign",)),
    "rezende_mohamed_3": Energy(fork, strip(0.35, 0.35)),
    "rezende_mohamed_4": Energy(step, strip(0.4, 0.35)),
}
