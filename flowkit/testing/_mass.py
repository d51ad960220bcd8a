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
    """An integral and how far it may be off; the error is small where ever finer cells agreed, and large where they never did."""

    value: float
    error: float


CELLS = {1: 1000, 2: 50}  # a side at the start
GOAL = 5e-4  # error at which refinement stops
POINTS = 3_000_000  # of the density, at most: about two seconds
CHUNK = 100_000  # points a call


def density_mass(log_density: Callable[[Tensor], Tensor], dim: int, centre: Tensor, scale: Tensor) -> Mass:
    """Integral over R^dim in t in (-1, 1)^dim, x = centre + scale tan(pi t / 2): heavy tails included.

    Gauss's rule on cells, each compared with its 2^dim halves; only cells where the two differ are cut again, so thin
    structure costs little. It ends when the differences add up to ``GOAL``, or when ``POINTS`` evaluations are spent:
    then the differences left are the error.
    """

    def density(t: Tensor) -> Tensor:
        angle = torch.pi / 2 * t
        log_slope = (torch.pi / 2 * scale).log() - 2 * angle.cos().log()
        return (log_density(centre + scale * angle.tan()) + log_slope.sum(-1)).exp().nan_to_num(torch.nan, 0.0, 0.0)

    side = 2 / CELLS[dim]
    line = torch.arange(CELLS[dim], dtype=torch.float64) * side - 1
    corners = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    sums, spent, total, dropped = _gauss(density, corners, side), 0, 0.0, 0.0
    while True:
        side /= 2
        halves = (corners.unsqueeze(1) + side * torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * dim).reshape(-1, dim)).flatten(0, 1)
        finer = _gauss(density, halves, side)
        spent += len(halves) * ORDER**dim
        off = (finer.reshape(len(corners), -1).sum(1) - sums).abs()
        size = max(1.0, abs(total + float(finer.sum())))
        open_ = off > GOAL * size / (10 * len(off))
        left, again = float(off.sum()), int(open_.sum()) * 4**dim * ORDER**dim
        if not left + dropped > GOAL * size or spent + again > POINTS or again == 0:  # not >: NaN ends it too
            return Mass(total + float(finer.sum()), left + dropped)
        kept = open_.repeat_interleave(2**dim)
        total, dropped = total + float(finer[~kept].sum()), dropped + float(off[~open_].sum())
        corners, sums = halves[kept], finer[kept]


ORDER = 4


def _gauss(density: Callable[[Tensor], Tensor], corners: Tensor, side: float) -> Tensor:
    """Integral over each cell of a side from its lower corner, by Gauss's rule: (n, dim) -> (n)."""
    dim = corners.shape[-1]
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(ORDER))
    inside = torch.cartesian_prod(*[(nodes + 1) / 2 * side] * dim).reshape(-1, dim)
    weight = torch.cartesian_prod(*[weights / 2 * side] * dim).reshape(-1, dim).prod(-1)
    return torch.cat([density((part.unsqueeze(1) + inside).flatten(0, 1)).reshape(len(part), -1) @ weight for part in corners.split(CHUNK // len(weight))])
