"""Histograms of energies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.core.errors import ShapeError
from flowkit.plots._style import CYCLE, FAINT, INK, dress, figure, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def energies(values: Mapping[str, Any], *, weights: Mapping[str, Any] | None = None, bins: int = 80, unit: str = "kT") -> Figure:
    """Densities of energies: the first set filled, the others as lines.

    The axis holds all sets, but reaches at most half the first set's width beyond it to the left and twice to the right; the legend says what
    share of a set is beyond.

    Args:
        values: title -> (N,) energies.
        weights: title -> (N,) weights of those that have some.
        bins: of each histogram.
        unit: of the energies.
    """
    if not values:
        raise ShapeError("energies: expected at least one set of energies; got none.")
    arrays = {title: np.asarray(given, dtype=np.float64).reshape(-1) for title, given in values.items()}
    first = next(iter(arrays.values()))
    first = first[np.isfinite(first)]
    if not len(first):
        raise ShapeError("energies: expected finite energies in the first set; got none.")
    low, high = np.quantile(first, [0.001, 0.999])
    width = float(high - low) or 1.0
    ends = np.array([np.quantile(found[np.isfinite(found)], [0.0005, 0.9995]) for found in arrays.values() if np.isfinite(found).any()])
    left, right = max(low - 0.5 * width, float(ends[:, 0].min())), min(high + 2 * width, float(ends[:, 1].max()))
    edges = np.linspace(left, right if right > left else left + width, bins + 1)
    made = figure(6.4, 3.4)
    axis = made.subplots()
    for number, (title, found) in enumerate(arrays.items()):
        mass = np.full(len(found), 1 / len(found)) if weights is None or title not in weights else np.asarray(weights[title], dtype=np.float64)
        mass = mass / mass.sum()
        inside = (found >= edges[0]) & (found <= edges[-1])
        counts, _ = np.histogram(found[inside], bins=edges, weights=mass[inside])
        beyond = 1 - float(mass[inside].sum())
        label = title if beyond < 5e-4 else f"{title} ({100 * beyond:.1f} % beyond)"
        height = counts / np.diff(edges)
        if number == 0:
            axis.stairs(height, edges, fill=True, color=FAINT, label=label)
        else:
            axis.stairs(height, edges, color=CYCLE[(number - 1) % len(CYCLE)], linewidth=1.6, label=label)
    dress(axis, "", f"energy ({unit})", "density")
    axis.set_yticks([])
    axis.xaxis.label.set_color(INK)
    legend(axis, loc="upper right")
    return made
