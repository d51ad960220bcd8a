"""The nearest point of a polytope, for many points at once."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest_point(x: Tensor, normals: Tensor, offsets: Tensor, scale: float) -> Tensor:
    """argmin |y - x| subject to normals y <= offsets.

    y = x - normals' m, where the multipliers m >= 0 maximise m'e - m'Mm / 2, e the excess over each facet and M the facets' Gram
    matrix: a non-negative least-squares problem. The method of Lawson and Hanson takes the facet most exceeded into the set that
    holds y, solves for the multipliers of the set, and drops facets whose multipliers would turn negative. It ends after finitely
    many rounds, about twice as many as facets hold a point; only points that are not done take part.

    Args:
        x: (N, D); normals: unit rows (m, D); offsets (m); scale: size of the set's coordinates.

    Reference: Lawson and Hanson (1974), Solving least squares problems, chapter 23.
    """
    gram, target = normals @ normals.mT, 100 * torch.finfo(x.dtype).eps * scale
    excess = x @ normals.mT - offsets
    rows = (excess > 0).any(-1).nonzero().squeeze(-1)
    found, excess = x.clone(), excess[rows]
    multipliers, held = torch.zeros_like(excess), torch.zeros_like(excess, dtype=torch.bool)
    for _ in range(10 * len(normals)):
        if not len(rows):
            break
        solved = _solved(held, excess, gram)
        falls = held & (solved <= 0)
        share = torch.where(falls, multipliers / (multipliers - solved), 1.0).amin(-1, keepdim=True)
        multipliers = multipliers + share * (solved - multipliers)
        back = falls.any(-1, keepdim=True)
        held = torch.where(back, held & (multipliers > 1e-12 * multipliers.amax(-1, keepdim=True)) & ~(falls & (multipliers <= 0)), held)
        multipliers = torch.where(held, multipliers, 0.0)
        slope = torch.where(held, -torch.inf, excess - multipliers @ gram)
        most, facet = slope.max(-1, keepdim=True)
        grows = ~back & (most > target)
        held = held.scatter(-1, facet, held.gather(-1, facet) | grows)
        found = found.index_copy(0, rows, x[rows] - multipliers @ normals)
        going = (back | grows).squeeze(-1)
        rows, excess, multipliers, held = rows[going], excess[going], multipliers[going], held[going]
    return found


def _solved(held: Tensor, excess: Tensor, gram: Tensor) -> Tensor:
    """Multipliers that put the held facets at their offsets, others zero; dependent facets share by a small ridge."""
    both = held.unsqueeze(-1) & held.unsqueeze(-2)
    eye = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    system = torch.where(both, gram + 16 * torch.finfo(gram.dtype).eps * eye, eye)
    solved: Tensor = torch.linalg.solve(system, torch.where(held, excess, 0.0).unsqueeze(-1)).squeeze(-1)
    return solved
