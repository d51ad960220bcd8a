"""Arguments and symmetries of mixtures."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from flowkit.core.errors import ConfigError


def means_of(means: Any, who: str) -> np.ndarray:
    """Read the means of K components in D dimensions: (K, D), float64."""
    rows = _numbers(means)
    if rows is None or rows.ndim != 2 or rows.size == 0 or not np.isfinite(rows).all():
        got = repr(means) if rows is None else f"shape {rows.shape}" if np.isfinite(rows).all() else "numbers that are not finite"
        raise ConfigError(f"{who}: expected means to be K rows of D finite numbers; got {got}. Pass e.g. [[-1.0, 0.0], [1.0, 0.0]].")
    return rows


def one_each(value: Any, count: int, who: str, name: str) -> np.ndarray:
    """Read positive finite numbers, one a component or one for all: (K), float64."""
    given = _numbers(value)
    if given is None or given.shape not in ((), (count,)) or not (np.isfinite(given).all() and (given > 0).all()):
        raise ConfigError(f"{who}: expected {name} to be a finite number > 0 or {count} of them, one a component; got {value!r}.")
    return np.broadcast_to(given, (count,)).copy()


def _numbers(value: Any) -> np.ndarray | None:
    if isinstance(value, str | bool):
        return None
    if isinstance(value, Tensor):
        return np.asarray(value.detach().cpu().double())
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def mixture_symmetries(means: np.ndarray, stds: np.ndarray, shares: np.ndarray) -> frozenset[str]:
    """Which of ``sign`` and ``permutation`` map the set of components to itself; neighbouring swaps make all permutations."""

    def rows(at: np.ndarray) -> np.ndarray:
        table = np.column_stack([at, stds, shares]).round(12)
        return table[np.lexsort(table.T)]

    def swapped(i: int) -> np.ndarray:
        order = np.arange(means.shape[1])
        order[[i, i + 1]] = order[[i + 1, i]]
        return means[:, order]

    same, dim = rows(means), means.shape[1]
    names = {"sign"} if np.array_equal(rows(-means), same) else set()
    return frozenset(names | ({"permutation"} if dim > 1 and all(np.array_equal(rows(swapped(i)), same) for i in range(dim - 1)) else set()))
