"""One look for every picture: few colours, thin axes, no frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit.core.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#24292f", "#6b7280", "#d9dde3"
MODEL, DATA, THIRD = "#0072b2", "#d55e00", "#009e73"  # of Okabe and Ito's colour-blind safe set
CYCLE = (MODEL, DATA, THIRD, "#cc79a7", "#e69f00", "#56b4e9", INK)
DENSITY_STOPS = ("#ffffff", "#d6e6f4", "#9cc4e4", "#4f97cb", "#1a69a8", "#0b3d75", "#061f40")


def figure(width: float, height: float, *, gap: float = 0.02) -> Figure:
    """An empty figure of a size in inches, laid out to fit its labels; ``gap`` is the share of a panel left between two."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.07, wspace=gap)
    return Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")


def dress(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Give axes the house look and their words."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
        axes.spines[side].set_linewidth(1.0)
    axes.tick_params(colors=MUTED, labelsize=8, length=3, width=0.8, color=FAINT)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, fontsize=10, color=INK, loc="left", pad=8)
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    axes.set_ylabel(y, fontsize=9, color=MUTED)


def legend(target: Any, **options: Any) -> None:
    """A legend of axes, or of a figure, without a frame."""
    target.legend(**{"frameon": False, "fontsize": 8.5, "labelcolor": INK, "handlelength": 1.4, **options})


def density_map() -> Any:
    """White through blue to near black, for densities."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("flowkit_density", DENSITY_STOPS)


def rows(x: Any, who: str) -> NDArray[np.float64]:
    """Samples (N, *event) as a finite array (N, D); rows that are not finite are left out."""
    values = x.detach().double().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise ShapeError(f"{who}: expected samples (N, D); got shape {values.shape}.")
    values = values.reshape(len(values), -1)
    values = values[np.isfinite(values).all(1)]
    if len(values) == 0:
        raise ShapeError(f"{who}: every sample holds NaN or infinity. Look at the model's samples first.")
    return values


def thin(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """At most ``count`` rows, evenly taken."""
    return values if len(values) <= count else values[np.linspace(0, len(values) - 1, count).astype(int)]


def span(values: NDArray[np.float64], *, share: float = 0.002, margin: float = 0.08) -> tuple[float, float]:
    """An interval with all but a ``share`` of the values at each end, and a margin."""
    low, high = np.quantile(values, [share, 1 - share])
    pad = margin * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def column_names(names: Any, count: int, who: str) -> list[str]:
    """Names of the columns, numbered when none are given."""
    if names is None:
        return [f"x{i}" for i in range(count)]
    if len(names) != count:
        raise ShapeError(f"{who}: expected {count} names; got {len(names)}.")
    return [str(name) for name in names]


def array(x: Any) -> NDArray[np.float64]:
    """A tensor or anything numeric as an array."""
    return x.detach().double().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, dtype=np.float64)
