"""Centre, bounds and volume of {G x <= c}, rows of G of length one; linear programs and vertices by scipy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError

PILOTS = 20_000  # points that tell which share of the bounding box the polytope takes
NUDGE = 1e-10  # relative shift of the facets where more than D of them meet in a vertex


class Inside(NamedTuple):
    """What linear programs tell of a polytope.

    Args:
        centre: of the largest ball inside, (D,); radius: that ball's.
        box: lower and upper ends, (2, D), infinite where there is none.
        share: of the box that the polytope takes, estimated; 0 for an unbounded one.
    """

    centre: Tensor
    radius: float
    box: Tensor
    share: float


def inside_of(rows: Tensor, right: Tensor) -> Inside:
    """Largest ball inside and bounding box, for unit rows (m, D) and right-hand sides (m), float64.

    Raises:
        ConfigError: empty or flat; or scipy is not installed.
    """
    optimize = _scipy("optimize")
    g, c = rows.cpu().numpy(), right.cpu().numpy()
    dim = g.shape[1]
    # maximise r subject to g.x + r <= c, r <= 1 keeping the program bounded
    ball = optimize.linprog([0.0] * dim + [-1.0], np.hstack([g, np.ones((len(g), 1))]), c, bounds=[(None, None)] * dim + [(None, 1 + abs(c).max())])
    if ball.status != 0 or ball.x[-1] <= 1e-12 * (1 + abs(c).max()):
        raise ConfigError("Polytope: expected G x <= c to have an interior; got an empty or flat set. Check the signs of G and c, rows are outward normals.")
    ends = np.empty((2, dim))
    for axis in range(dim):
        for side, sign in ((0, 1.0), (1, -1.0)):
            found = optimize.linprog(sign * np.eye(dim)[axis], g, c, bounds=(None, None))
            ends[side, axis] = found.x[axis] if found.status == 0 else -sign * np.inf
    pilots = torch.rand((PILOTS, dim), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = torch.from_numpy(ends)
    inside = ((low + (high - low) * pilots) @ rows.cpu().mT <= right.cpu()).all(-1)
    share = float(inside.double().mean()) if np.isfinite(ends).all() else 0.0
    return Inside(torch.from_numpy(ball.x[:-1].copy()), float(ball.x[-1]), torch.from_numpy(ends), share)


def log_volume(rows: Tensor, right: Tensor, centre: Tensor) -> float:
    """Logarithm of the volume of {rows x <= right}, float64.

    Lawrence's sum over the vertices v of a simple polytope, where facets A_v meet: vol = sum (q.v)^D / (D! |det A_v| prod y_v),
    y_v = A_v^-T q, for any q that is parallel to no face. Its terms cancel; of several q the one with the smallest terms serves.

    Raises:
        ConfigError: the sum has lost its digits (hundreds of thousands of vertices, or facets that nearly coincide).
    """
    g, c = rows.numpy(), (right - rows @ centre).numpy()
    dim = g.shape[1]
    if dim == 1:
        ends = (c / g[:, 0])[g[:, 0] > 0].min(), (c / g[:, 0])[g[:, 0] < 0].max()
        return math.log(ends[0] - ends[1])
    corners = _corners(g, c)
    found = sorted((_lawrence(*corners, np.random.default_rng(seed).standard_normal(dim)) for seed in range(8)), key=lambda pair: pair[1])
    (best, _), (second, _) = found[:2]
    if not (best > 0 and abs(best - second) <= 1e-3 * best):
        raise ConfigError(f"Polytope.log_volume: the sum over {len(corners[0])} vertices lost its digits. Use a prior that needs no volume.")
    return math.log(best)


def _corners(g: Any, c: Any) -> tuple[Any, Any]:
    """The facets that meet in each vertex: normals (V, D, D) and right-hand sides (V, D)."""
    spatial = _scipy("spatial")
    for attempt in range(3):
        moved = c if attempt == 0 else c * (1 + attempt * NUDGE * np.random.default_rng(attempt).standard_normal(len(c)))
        hull = spatial.HalfspaceIntersection(np.hstack([g, -moved[:, None]]), np.zeros(g.shape[1]))
        meeting = [sorted(set(facets)) for facets in hull.dual_facets]
        if all(len(facets) == g.shape[1] for facets in meeting):
            break
        # more than D facets meet somewhere: shifted a little they meet in several simple vertices
    else:
        raise ConfigError("Polytope.log_volume: more than D facets meet in some vertices. Shift them a little, or drop those that repeat others.")
    index = np.array(meeting)
    return g[index], moved[index]


def _lawrence(normals: Any, right: Any, q: Any) -> tuple[float, float]:
    """The sum, and the size of its largest term."""
    dim = len(q)
    vertices = np.linalg.solve(normals, right[..., None])[..., 0]
    y = np.linalg.solve(normals.transpose(0, 2, 1), np.broadcast_to(q[:, None], (len(normals), dim, 1)))[..., 0]
    heights = vertices @ q
    sign = np.sign(heights) ** dim * np.prod(np.sign(y), axis=1)
    with np.errstate(divide="ignore"):
        log_size = dim * np.log(np.abs(heights)) - math.lgamma(dim + 1) - np.linalg.slogdet(normals)[1] - np.log(np.abs(y)).sum(1)
    terms = sign * np.exp(log_size)
    return math.fsum(terms), float(np.abs(terms).max())


def _scipy(part: str) -> Any:
    """A module of scipy, which flowkit does not require."""
    import importlib

    try:
        return importlib.import_module(f"scipy.{part}")
    except ImportError:
        raise ConfigError("Polytope: needs scipy, for linear programs and vertices. Install it: pip install scipy.") from None
