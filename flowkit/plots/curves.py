"""Training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import ShapeError
from flowkit.plots._style import CYCLE, FAINT, INK, MUTED, dress, figure, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLOCKS = ("step", "epoch", "seconds", "time")


def loss_curves(history: Mapping[str, Any], *, names: Sequence[str] | None = None, label: str = "loss") -> Figure:
    """Losses against the step, and below them every other number that was logged, unless it was always 0.

    A curve of more than 200 values is drawn faintly under its running mean. The lowest point of a curve whose name
    contains ``validation`` is marked. Values that were not measured at a step are NaN or None.

    Args:
        history: name -> one value for each entry of ``history["step"]``.
        names: the curves that share the first panel; by default those whose name contains "loss", "nll" or "validation".
        label: of the first panel's axis.
    """
    if "step" not in history:
        raise ShapeError(f"loss_curves: expected a history with 'step'; got {', '.join(history) or 'nothing'}.")
    step = np.asarray(history["step"], dtype=np.float64)
    curves = {name: _curve(name, values, step) for name, values in history.items() if name not in CLOCKS}
    curves = {name: values for name, values in curves.items() if (np.nan_to_num(values) != 0).any()}
    if not curves:
        raise ShapeError("loss_curves: the history holds no finite value other than 0. Train for a step, or pass another history.")
    first = [name for name in curves if name in names] if names is not None else [name for name in curves if _is_loss(name)]
    first = first or list(curves)[:1]
    others = [name for name in curves if name not in first]
    made = figure(7.2, 3.4 + 1.5 * len(others))
    axes = made.subplots(1 + len(others), 1, sharex=True, squeeze=False, height_ratios=[2.4] + [1.0] * len(others))[:, 0]
    for name, colour in zip(first, CYCLE * (1 + len(first) // len(CYCLE)), strict=False):
        _draw(axes[0], step, curves[name], colour, name, mark="validation" in name)
    shown = np.concatenate([curves[name][np.isfinite(curves[name])] for name in first])
    _limit(axes[0], shown)
    dress(axes[0], "", "", label)
    legend(axes[0], loc="upper right")
    for axis, name in zip(axes[1:], others, strict=True):
        _draw(axis, step, curves[name], INK, name, mark=False)
        dress(axis, "", "", name)
    axes[-1].set_xlabel("step", fontsize=9, color=MUTED)
    axes[-1].locator_params(axis="x", integer=True)
    for axis in axes:
        axis.grid(axis="y", color=FAINT, linewidth=0.6)
    return made


def _is_loss(name: str) -> bool:
    return any(word in name for word in ("loss", "nll", "validation"))


def _curve(name: str, values: Any, step: NDArray[np.float64]) -> NDArray[np.float64]:
    curve = np.array([np.nan if value is None else float(value) for value in values])
    if curve.shape != step.shape:
        raise ShapeError(f"loss_curves: expected {len(step)} values of '{name}', one a step; got {len(curve)}.")
    return curve


def _draw(axis: Axes, step: NDArray[np.float64], curve: NDArray[np.float64], colour: str, name: str, *, mark: bool) -> None:
    there = np.isfinite(curve)
    x, y = step[there], curve[there]
    if len(y) > 200:
        axis.plot(x, y, color=colour, linewidth=0.7, alpha=0.25)
        axis.plot(x, _running_mean(y, len(y) // 50), color=colour, linewidth=1.7, label=name)
    else:
        axis.plot(x, y, color=colour, linewidth=1.7, label=name, marker="o" if len(y) == 1 else None, markersize=3)
    if mark:
        best = int(y.argmin())
        axis.plot(x[best], y[best], "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=1.2)
        axis.annotate(f"{y[best]:.3f}", (x[best], y[best]), xytext=(0, -12), textcoords="offset points", ha="center", fontsize=8, color=colour)


def _running_mean(y: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Mean of the values at most ``half`` places away."""
    total = np.concatenate([[0.0], np.cumsum(y)])
    places = np.arange(len(y))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(y))
    return (total[high] - total[low]) / (high - low)


def _limit(axis: Axes, values: NDArray[np.float64]) -> None:
    """Leave out the first steep part of a loss when it would flatten the rest."""
    low, high, top = values.min(), np.quantile(values, 0.98), values.max()
    if top - low > 4 * (high - low) > 0:
        axis.set_ylim(low - 0.12 * (high - low), high + 0.25 * (high - low))
    else:
        axis.margins(y=0.14)
