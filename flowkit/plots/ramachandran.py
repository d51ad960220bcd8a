"""Ramachandran maps: densities of two dihedral angles, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import ShapeError
from flowkit.plots._style import MUTED, density_map, dress, figure, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ramachandran(angles: Mapping[str, Any], *, weights: Mapping[str, Any] | None = None, bins: int = 60, depth: float = 8.0) -> Figure:
    """Free energies -log p(phi, psi) in kT above the lowest cell, one panel for each set of angles, on one scale of colours.

    Args:
        angles: title -> (N, 2) dihedrals in radians.
        weights: title -> (N,) weights of those that have some, not negative.
        bins: cells along each axis.
        depth: kT at which colours end; cells above it, and empty ones, are white.
    """
    if not angles:
        raise ShapeError("ramachandran: expected at least one set of angles; got none.")
    maps = {title: _free_energy(title, values, None if weights is None else weights.get(title), bins) for title, values in angles.items()}
    made = figure(3.1 * len(maps) + 0.7, 3.4)
    axes = made.subplots(1, len(maps), sharex=True, sharey=True, squeeze=False)[0]
    ticks = (-180, -90, 0, 90, 180)
    for axis, (title, energy) in zip(axes, maps.items(), strict=True):
        shown = axis.imshow(energy.T, origin="lower", extent=(-180, 180, -180, 180), cmap=density_map().reversed(), vmin=0, vmax=depth, aspect="equal")
        dress(axis, title, "phi (degrees)", "psi (degrees)" if axis is axes[0] else "")
        axis.set_xticks(ticks)
        axis.set_yticks(ticks)
    bar = made.colorbar(shown, ax=axes[-1], fraction=0.046, pad=0.03)
    bar.set_label("free energy (kT)", fontsize=9, color=MUTED)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=8, length=0, colors=MUTED)
    return made


def _free_energy(title: str, values: Any, weights: Any, bins: int) -> NDArray[np.float64]:
    found = rows(values, "ramachandran")
    if found.shape[1] != 2:
        raise ShapeError(f"ramachandran: expected angles (N, 2) for {title!r}; got {found.shape}.")
    wrapped = np.remainder(found + math.pi, 2 * math.pi) - math.pi
    mass = None if weights is None else np.asarray(weights, dtype=np.float64)
    if mass is not None and mass.shape != (len(found),):
        raise ShapeError(f"ramachandran: expected {len(found)} weights for {title!r}; got {mass.shape}.")
    counts, _, _ = np.histogram2d(wrapped[:, 0], wrapped[:, 1], bins=bins, range=[[-math.pi, math.pi]] * 2, weights=mass)
    with np.errstate(divide="ignore"):
        energy = -np.log(counts / counts.max())
    return np.where(np.isfinite(energy), energy, np.nan)
