"""Integrals of densities in one and two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowkit.core.algebra import Identity
from flowkit.core.build import build
from flowkit.core.domain.domain import Domain
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Shape
from flowkit.core.transform import Bijector


def onto(domain: Domain, event: Shape) -> Bijector | None:
    """A bijector from R^n onto the domain's interior, or None where none is registered."""
    if domain.trivial:
        return Identity(event)
    description = domain.support_map()
    if description is None or description["name"] not in BIJECTORS:
        return None
    return build(description, Bijector)


NEAR = 2e-3  # how close to one an integral has to come
GRIDS = (160, 320, 480)  # cells a side; finer ones are tried where the density has structure that the first misses


def mapped_mass(there: Callable[[Tensor], Tensor], log_density: Callable[[Tensor], Tensor], dim: int, reach: float = 7.0) -> float:
    """Integral of a density over the image of [-reach, reach]^dim under a map, as a sum over images of small cells.

    The volume of a cell's image comes from the mapped corners alone, so a wrong log_det cannot cancel. The error of the
    sum falls with the square of the cell, so a grid is refined until the sum is near one, or stays away from it.
    """
    total = torch.nan
    for cells in GRIDS:
        total = _cell_sum(there, log_density, dim, reach, cells)
        if abs(total - 1.0) <= NEAR:
            break
    return total


def _cell_sum(there: Callable[[Tensor], Tensor], log_density: Callable[[Tensor], Tensor], dim: int, reach: float, cells: int) -> float:
    if dim == 1:
        edges = torch.linspace(-reach, reach, 20 * cells + 1, dtype=torch.float64).unsqueeze(-1)
        ends = there(edges)[:, 0]
        centres = there((edges[1:] + edges[:-1]) / 2)
        return float((log_density(centres).exp() * (ends[1:] - ends[:-1]).abs()).sum())
    line = torch.linspace(-reach, reach, cells + 1, dtype=torch.float64)
    corners = there(torch.cartesian_prod(line, line)).reshape(cells + 1, cells + 1, 2)
    middle = (line[1:] + line[:-1]) / 2
    centres = there(torch.cartesian_prod(middle, middle))
    first = corners[1:, 1:] - corners[:-1, :-1]
    second = corners[:-1, 1:] - corners[1:, :-1]
    area = (0.5 * (first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0])).abs().flatten()
    density = log_density(centres).exp()
    return float((density * area).sum())


class Mass(NamedTuple):
    """An integral and how far it may be off: little where finer cells agreed, much where they never did."""

    value: float
    error: float


STARTS = {1: (1000, 2200), 2: (50, 110)}  # cells a side of the first grid, and of a second one where the first is not enough
ORDER = 4  # Gauss nodes a side of a cell
GOAL = 5e-4  # error at which a grid is fine enough
POINTS = 3_000_000  # evaluations a grid, at most: a second or two
CHUNK = 100_000  # points a call


def density_mass(log_density: Callable[[Tensor], Tensor], dim: int, centre: Tensor, scale: Tensor) -> Mass:
    """Integral over R^dim in t in (-1, 1)^dim, x = centre + scale tan(pi t / 2): heavy tails included.

    A grid is refined where it has to be. A sum that is not near one then comes from a second, finer grid, and the
    difference of the two is part of the error: structure that a grid misses altogether does not show in its own.
    """

    def density(t: Tensor) -> Tensor:
        angle = torch.pi / 2 * t
        log_slope = (torch.pi / 2 * scale).log() - 2 * angle.cos().log()
        return (log_density(centre + scale * angle.tan()) + log_slope.sum(-1)).exp().nan_to_num(torch.nan, 0.0, 0.0)

    first, second = STARTS[dim]
    mass = _refined(density, dim, first)
    if abs(mass.value - 1.0) <= NEAR and mass.error <= NEAR:
        return mass
    value, error = _refined(density, dim, second)
    return Mass(value, error + abs(value - mass.value))


def _refined(density: Callable[[Tensor], Tensor], dim: int, cells: int) -> Mass:
    """Integral over (-1, 1)^dim: cells that differ from the sum of their 2^dim halves are cut again.

    It ends when the differences add up to ``GOAL`` of the whole, or when ``POINTS`` are spent.
    """
    side = 2 / cells
    corners = torch.cartesian_prod(*[torch.arange(cells, dtype=torch.float64) * side - 1] * dim).reshape(-1, dim)
    steps = torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * dim).reshape(-1, dim)
    sums, spent, settled, dropped = _gauss(density, corners, side), len(corners) * ORDER**dim, 0.0, 0.0
    while True:
        side /= 2
        halves = (corners.unsqueeze(1) + side * steps).flatten(0, 1)
        finer = _gauss(density, halves, side)
        spent += len(halves) * ORDER**dim
        off = (finer.reshape(len(corners), -1).sum(1) - sums).abs()
        value, error = settled + float(finer.sum()), dropped + float(off.sum())
        goal = GOAL * max(1.0, abs(value))
        cut = off > goal / (10 * len(off))
        if not error > goal or not bool(cut.any()) or spent + int(cut.sum()) * (4 * ORDER) ** dim > POINTS:  # not >: NaN ends it too
            return Mass(value, error)
        kept = cut.repeat_interleave(2**dim)
        settled, dropped = settled + float(finer[~kept].sum()), dropped + float(off[~cut].sum())
        corners, sums = halves[kept], finer[kept]


def _gauss(density: Callable[[Tensor], Tensor], corners: Tensor, side: float) -> Tensor:
    """Integral over each cell of a side from its lower corner, by Gauss's rule: (n, dim) -> (n)."""
    dim = corners.shape[-1]
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(ORDER))
    inside = torch.cartesian_prod(*[(nodes + 1) / 2 * side] * dim).reshape(-1, dim)
    weight = torch.cartesian_prod(*[weights / 2 * side] * dim).reshape(-1, dim).prod(-1)
    return torch.cat([density((part.unsqueeze(1) + inside).flatten(0, 1)).reshape(len(part), -1) @ weight for part in corners.split(CHUNK // len(weight))])
