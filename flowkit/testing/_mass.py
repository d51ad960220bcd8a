"""Integrals of densities in one and two dimensions."""

from __future__ import annotations

from collections.abc import Callable

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


def density_mass(log_density: Callable[[Tensor], Tensor], dim: int, centre: Tensor, scale: Tensor, points: int = 400) -> float:
    """Integral over R^dim by the midpoint rule in t, x = centre + scale tan(pi t / 2): heavy tails included."""
    count = 20 * points if dim == 1 else points
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
    tangent = torch.tan(torch.pi / 2 * t)
    weight = (torch.pi / count) * (1 + tangent.square())
    grid = torch.cartesian_prod(*[tangent] * dim).reshape(-1, dim)
    weights = torch.cartesian_prod(*[weight] * dim).reshape(-1, dim).prod(-1)
    values = log_density(centre + scale * grid).exp()
    return float((values * weights).nan_to_num(torch.nan, 0.0, 0.0).sum() * scale.prod())

