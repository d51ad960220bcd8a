"""A two-dimensional density beside its data and samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ShapeError
from flowkit.core.flow import Flow
from flowkit.core.shapes import Context
from flowkit.plots._style import DATA, MODEL, MUTED, density_map, dress, figure, rows, span, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def density_2d(
    flow: Distribution,
    data: Any = None,
    *,
    context: Context = None,
    names: Sequence[str] | None = None,
    extent: tuple[float, float, float, float] | None = None,
    points: int = 3000,
    resolution: int = 200,
    generator: torch.Generator | None = None,
) -> Figure:
    """Data, samples and the density of a model of the plane, side by side on the same axes.

    Args:
        flow: a distribution with event shape (2,).
        data: (N, 2), or None to leave that panel out.
        context: one context, ``context_shape``, for a conditional model.
        names: of the two coordinates.
        extent: (x low, x high, y low, y high); by default what holds nearly all data and samples.
        points: dots at most in each panel; as many samples are drawn as data are shown.
        resolution: grid points along each axis.
        generator: for the samples.
    """
    if tuple(flow.event_shape) not in ((2,), (None,)):
        raise ShapeError(f"density_2d: expected a model of event shape (2,); got {flow.event_shape}. Use pair_plot for more columns.")
    real = None if data is None else thin(rows(data, "density_2d"), points)
    with torch.no_grad():
        samples = rows(flow.sample((points if real is None else len(real),), context, generator=generator), "density_2d")
    seen = samples if real is None else real
    box = extent or (*span(seen[:, 0]), *span(seen[:, 1]))
    labels = tuple(names or ("x", "y"))
    grid = _density_on_grid(flow, box, context, resolution)

    panels = [] if real is None else [("Data", real, DATA)]
    panels.append(("Samples", samples, MODEL))
    made = figure(3.3 * (len(panels) + 1) + 0.5, 3.5)
    axes = made.subplots(1, len(panels) + 1, sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, dots, colour) in zip(axes, panels, strict=False):
        size = float(np.clip(4000 / len(dots), 1.2, 9))
        axis.scatter(dots[:, 0], dots[:, 1], s=size, color=colour, alpha=0.55, linewidths=0, rasterized=True)
        _frame(axis, title, labels, box)
    shown = axes[-1].imshow(grid, origin="lower", extent=box, cmap=density_map(), vmin=0, vmax=_top(grid), interpolation="bilinear", aspect="auto")
    _frame(axes[-1], "Density", labels, box)
    bar = made.colorbar(shown, ax=axes[-1], fraction=0.046, pad=0.03)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8, length=0, colors=MUTED)
    for axis in axes[1:]:
        axis.set_ylabel("")
    return made


def _frame(axis: Axes, title: str, labels: Sequence[str], box: tuple[float, float, float, float]) -> None:
    dress(axis, title, labels[0], labels[1])
    axis.set_xlim(box[0], box[1])
    axis.set_ylim(box[2], box[3])
    axis.set_box_aspect(1)


def _top(grid: NDArray[np.float64]) -> float:
    """The density drawn darkest: the highest, unless it is a spike that would leave the rest white."""
    return min(float(grid.max()), 2 * float(np.quantile(grid, 0.995))) or float(grid.max()) or 1.0


def _density_on_grid(flow: Distribution, box: tuple[float, float, float, float], context: Context, resolution: int) -> NDArray[np.float64]:
    """exp(log_prob) at the centres of a grid of cells, (resolution, resolution), rows along y; outside the support 0."""
    like = next((p for p in (*flow.parameters(), *flow.buffers()) if p.is_floating_point()), torch.zeros(()))
    centres = (torch.arange(resolution, dtype=like.dtype, device=like.device) + 0.5) / resolution
    across, up = box[0] + (box[1] - box[0]) * centres, box[2] + (box[3] - box[2]) * centres
    y, x = torch.meshgrid(up, across, indexing="ij")
    cells = torch.stack([x, y], dim=-1).reshape(-1, 2)
    options: dict[str, Any] = {"batch_size": 8192} if isinstance(flow, Flow) else {}
    with torch.no_grad():
        log_prob: Tensor = flow.log_prob(cells, context, **options)
    return np.nan_to_num(log_prob.double().exp().reshape(resolution, resolution).cpu().numpy())
