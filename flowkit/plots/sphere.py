"""A density on the globe beside its data and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ShapeError
from flowkit.core.flow import Flow
from flowkit.core.shapes import Context
from flowkit.plots._style import DATA, FAINT, INK, MODEL, MUTED, density_map, figure, rows, thin

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sphere_map(
    flow: Distribution,
    data: Any = None,
    *,
    context: Context = None,
    points: int = 3000,
    resolution: int = 180,
    generator: torch.Generator | None = None,
) -> Figure:
    """Data, samples and log-density of a model of directions in space, each in Mollweide's equal-area map of the sphere.

    North is z, the middle of the map is x; equal areas of paper are equal solid angles, so dots are as dense as the law.

    Args:
        flow: a distribution on the unit sphere, event shape (3,), its density per steradian.
        data: (N, 3), or None to leave that panel out.
        context: one context, ``context_shape``, for a conditional model.
        points: dots at most in each panel; as many samples are drawn as data are shown.
        resolution: cells from pole to pole; twice as many around.
        generator: for the samples.
    """
    if tuple(flow.event_shape) != (3,):
        raise ShapeError(f"sphere_map: expected a model of event shape (3,), directions in space; got {tuple(flow.event_shape)}.")
    real = None if data is None else thin(rows(data, "sphere_map"), points)
    with torch.no_grad():
        samples = rows(flow.sample((points if real is None else len(real),), context, generator=generator), "sphere_map")
    panels = [] if real is None else [("Data", real, DATA)]
    panels.append(("Samples", samples, MODEL))
    made = figure(4.6 * (len(panels) + 1), 2.9)
    for position, (title, dots, colour) in enumerate(panels, start=1):
        axis = globe(made, len(panels) + 1, position, title)
        longitude, latitude = angles(dots)
        axis.scatter(longitude, latitude, s=float(np.clip(5000 / len(dots), 1.0, 8)), color=colour, alpha=0.5, linewidths=0, rasterized=True)
    axis = globe(made, len(panels) + 1, len(panels) + 1, "Density per steradian")
    longitude, latitude, density = _density(flow, context, resolution)
    top = float(np.quantile(density, 0.998)) or float(density.max()) or 1.0
    shown = axis.pcolormesh(longitude, latitude, density, cmap=density_map(), vmin=0, vmax=top, shading="flat", rasterized=True)
    bar = made.colorbar(shown, ax=axis, fraction=0.03, pad=0.03)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8, length=0, colors=MUTED)
    return made


def globe(made: Figure, count: int, position: int, title: str) -> Any:
    """Axes of a map of the globe, one of ``count`` in a row."""
    axis = made.add_subplot(1, count, position, projection="mollweide")
    axis.set_title(title, fontsize=10, color=INK, pad=10)
    axis.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]))
    axis.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]))
    axis.set_xticklabels([])
    axis.tick_params(labelsize=7, colors=MUTED)
    axis.grid(True, color=FAINT, linewidth=0.5)
    axis.spines["geo"].set_color(FAINT)
    axis.set_axisbelow(True)
    return axis


def angles(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude of vectors (N, 3), in radians."""
    return np.arctan2(x[:, 1], x[:, 0]), np.arctan2(x[:, 2], np.hypot(x[:, 0], x[:, 1]))


def _density(flow: Distribution, context: Context, resolution: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Edges of longitude and latitude, and exp(log_prob) at the centres of the cells (resolution, 2 resolution)."""
    like = next((p for p in (*flow.parameters(), *flow.buffers()) if p.is_floating_point()), torch.zeros(()))
    longitude = np.linspace(-np.pi, np.pi, 2 * resolution + 1)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, resolution + 1)
    around, up = np.meshgrid((longitude[1:] + longitude[:-1]) / 2, (latitude[1:] + latitude[:-1]) / 2)
    places = np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], axis=-1)
    cells = torch.from_numpy(places.reshape(-1, 3)).to(like)
    options: dict[str, Any] = {"batch_size": 8192} if isinstance(flow, Flow) else {}
    with torch.no_grad():
        log_prob = flow.log_prob(cells, context, **options)
    return longitude, latitude, np.nan_to_num(log_prob.double().exp().reshape(resolution, 2 * resolution).cpu().numpy())
