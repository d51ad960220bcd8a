"""The normal prior and the counts of a log-Gaussian Cox process on a grid."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from torch import Tensor

from flowkit.core.errors import ConfigError

DECAY = 33.0  # one over the correlation length, in units of the side of the square


@functools.lru_cache(maxsize=4)
def prior_factor(grid: int, variance: float) -> np.ndarray:
    """The lower Cholesky factor of K, float64: (grid^2, grid^2)."""
    places = np.stack(np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float64)
    apart = np.sqrt(np.square(places[:, None] - places).sum(-1))
    factor = np.linalg.cholesky(variance * np.exp(-DECAY * apart / grid))
    factor.setflags(write=False)
    return factor


@functools.lru_cache(maxsize=4)
def whitening_factor(grid: int, variance: float) -> np.ndarray:
    """The inverse of that factor, lower triangular: (grid^2, grid^2)."""
    factor = np.tril(np.linalg.inv(prior_factor(grid, variance)))
    factor.setflags(write=False)
    return factor


def bin_counts(points: Any, grid: int, who: str) -> np.ndarray:
    """Points (N, 2) of the unit square in each cell, row after row by the first coordinate: (grid^2)."""
    rows = _numbers(points)
    if rows is None or rows.ndim != 2 or rows.shape[1] != 2 or not ((rows >= 0) & (rows <= 1)).all():
        got = type(points).__name__ if rows is None else f"shape {rows.shape}" if rows.ndim != 2 or rows.shape[1] != 2 else "points outside"
        raise ConfigError(f"{who}: expected points (N, 2) in the unit square; got {got}. Scale each coordinate into [0, 1].")
    cells = np.minimum((rows * grid).astype(np.int64), grid - 1)
    return np.bincount(cells[:, 0] * grid + cells[:, 1], minlength=grid**2).astype(np.float64)


def counts_of(counts: Any, grid: int, who: str) -> np.ndarray:
    """Read the counts of all cells: (grid^2)."""
    given = _numbers(counts)
    if given is None or given.shape not in ((grid**2,), (grid, grid)) or not ((given >= 0) & (given == np.round(given)) & np.isfinite(given)).all():
        got = type(counts).__name__ if given is None else f"shape {given.shape}" if given.size != grid**2 else "other numbers"
        raise ConfigError(f"{who}: expected counts to be {grid**2} whole numbers >= 0, one for each of {grid} x {grid} cells; got {got}.")
    return given.reshape(-1)


def _numbers(value: Any) -> np.ndarray | None:
    try:
        return np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
