"""Columns of a table, alone and in pairs, against a model's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import ShapeError
from flowkit.plots._style import DATA, FAINT, MODEL, column_names, dress, figure, legend, rows, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MASSES = (0.9, 0.5)
CELLS = 48


def pair_plot(data: Any, samples: Any = None, names: Sequence[str] | None = None, *, columns: int = 6) -> Figure:
    """A corner plot: histograms on the diagonal, and for each pair the regions that hold 50 % and 90 % of the mass.

    Data are filled, samples are lines.

    Args:
        data: (N, D) or (N, *event), flattened.
        samples: (M, D), or None.
        names: of the D columns.
        columns: shown at most, the first ones.
    """
    real, drawn, labels = _compared(data, samples, names, columns, "pair_plot")
    count = real.shape[1]
    spans = [span(real[:, i], margin=0.14) for i in range(count)]
    side = float(np.clip(9.0 / count, 1.45, 3.0))
    made = figure(side * count + 0.4, side * count + 0.4)
    grid = made.subplots(count, count, squeeze=False)
    for i in range(count):
        for j in range(count):
            axis = grid[i, j]
            if j > i:
                axis.set_visible(False)
                continue
            dress(axis, "", labels[j] if i == count - 1 else "", labels[i] if j == 0 and i > 0 else "")
            axis.set_xlim(spans[j])
            axis.locator_params(nbins=4)
            if i == j:
                _histogram(axis, real[:, i], None if drawn is None else drawn[:, i], spans[i])
            else:
                _regions(axis, real[:, [j, i]], None if drawn is None else drawn[:, [j, i]], (*spans[j], *spans[i]))
            axis.tick_params(labelbottom=i == count - 1, labelleft=j == 0 and i > 0)
    _key(made, drawn is not None, loc="upper right" if count > 1 else "outside upper right")
    return made


def marginals(data: Any, samples: Any = None, names: Sequence[str] | None = None, *, columns: int = 16, bins: int | None = None) -> Figure:
    """Histograms of each column: data filled, samples as a line.

    Args:
        data: (N, D) or (N, *event), flattened; None for samples alone, which are filled then.
        samples: (M, D), or None.
        names: of the D columns.
        columns: shown at most, the first ones.
        bins: of each histogram; by default more for more data.
    """
    alone = data is None
    real, drawn, labels = _compared(samples if alone else data, None if alone else samples, names, columns, "marginals")
    count = real.shape[1]
    across = min(4, count)
    down = -(-count // across)
    made = figure(2.4 * across + 0.3, 1.9 * down + 0.4)
    grid = made.subplots(down, across, squeeze=False).reshape(-1)
    for i, axis in enumerate(grid):
        if i >= count:
            axis.set_visible(False)
            continue
        dress(axis, "", labels[i], "density" if i % across == 0 else "")
        interval = span(real[:, i])
        axis.set_xlim(interval)
        axis.locator_params(axis="x", nbins=4)
        _histogram(axis, real[:, i], None if drawn is None else drawn[:, i], interval, bins, MODEL if alone else DATA)
    if not alone:
        _key(made, drawn is not None, loc="outside upper right")
    return made


def _compared(
    data: Any, samples: Any, names: Sequence[str] | None, columns: int, who: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, list[str]]:
    real = rows(data, who)
    drawn = None if samples is None else rows(samples, who)
    if drawn is not None and drawn.shape[1] != real.shape[1]:
        raise ShapeError(f"{who}: expected samples of {real.shape[1]} columns like the data; got {drawn.shape[1]}.")
    labels = column_names(names, real.shape[1], who)
    return real[:, :columns], None if drawn is None else drawn[:, :columns], labels[:columns]


def _histogram(
    axis: Axes,
    real: NDArray[np.float64],
    drawn: NDArray[np.float64] | None,
    interval: tuple[float, float],
    bins: int | None = None,
    colour: str = DATA,
) -> None:
    """Two histograms over one interval, each divided by its own number of rows, seen or not."""
    edges = np.linspace(*interval, (bins or int(np.clip(2.2 * len(real) ** (1 / 3), 10, 48))) + 1)
    width = edges[1] - edges[0]
    heights = np.histogram(real, edges)[0] / (len(real) * width)
    axis.stairs(heights, edges, fill=True, color=colour, alpha=0.28, linewidth=0)
    if drawn is not None:
        axis.stairs(np.histogram(drawn, edges)[0] / (len(drawn) * width), edges, color=MODEL, linewidth=1.3)
    axis.set_yticks([])
    axis.set_ylim(bottom=0)
    axis.spines["left"].set_visible(False)


def _regions(axis: Axes, real: NDArray[np.float64], drawn: NDArray[np.float64] | None, box: tuple[float, float, float, float]) -> None:
    """Highest-density regions of smoothed two-dimensional histograms."""
    from matplotlib.colors import to_rgba

    width = _width(real)  # one for both: two would blur them differently
    density, x, y = _smoothed(real, box, width)
    levels = _mass_levels(density)
    top = max(float(density.max()), levels[-1]) * 1.001
    axis.contourf(x, y, density, levels=[*levels, top], colors=[to_rgba(DATA, 0.20), to_rgba(DATA, 0.45)])
    if drawn is not None:
        model, _, _ = _smoothed(drawn, box, width)
        axis.contour(x, y, model, levels=_mass_levels(model), colors=MODEL, linewidths=(0.9, 1.3))
    axis.set_ylim(box[2], box[3])


def _width(points: NDArray[np.float64]) -> float:
    """Cells in one standard deviation of the smoothing kernel, which narrows as points grow."""
    return float(np.clip(0.16 * CELLS * len(points) ** (-1 / 6), 0.8, 4.0))


def _smoothed(
    points: NDArray[np.float64], box: tuple[float, float, float, float], width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """A histogram smoothed by a normal kernel: (y, x) cells, and their centres."""
    counts, x, y = np.histogram2d(points[:, 0], points[:, 1], bins=CELLS, range=[box[:2], box[2:]])
    reach = np.arange(-int(4 * width), int(4 * width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel, mode="same")
    return counts.T, (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2


def _mass_levels(density: NDArray[np.float64]) -> list[float]:
    """Densities whose regions hold the masses, ascending and distinct."""
    ordered = np.sort(density, axis=None)[::-1]
    mass = ordered.cumsum() / max(float(ordered.sum()), 1e-300)
    levels = [float(ordered[min(int(np.searchsorted(mass, share)), ordered.size - 1)]) for share in MASSES]
    return [levels[0], max(levels[1], levels[0] * (1 + 1e-9) + 1e-300)]


def _key(made: Figure, samples: bool, *, loc: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(facecolor=DATA, alpha=0.4, edgecolor=FAINT, linewidth=0, label="data")]
    if samples:
        handles.append(Line2D([], [], color=MODEL, linewidth=1.5, label="samples"))
    legend(made, handles=handles, loc=loc, ncols=1 if loc == "upper right" else 2)
