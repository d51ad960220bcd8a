"""The pictures of a report, each drawn only where it says something."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowkit.data import Split
from flowkit.experiment._numbers import rounded
from flowkit.experiment._paths import animation, has_paths, on_globe, paths_of
from flowkit.experiment.evaluate import generator_for
from flowkit.experiment.record import Run
from flowkit.experiment.samples import stream
from flowkit.plots import density_2d, image_grid, loss_curves, marginals, pair_plot, path_strip, sphere_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, PICTURES, COLUMNS, SHOWN_COLUMNS, DPI = 4000, 64, 6, 16, 170
POLE_TO_POLE = 120  # cells of a map of the sphere, whose densities are solves
MOVING, STRIP_ROWS, STRIP_TIMES = 1500, 6, 6
SMALLEST_FIELD = 4  # sites along each axis; fewer columns are coordinates of particles


def curves(history: Mapping[str, list[float]]) -> Figure | None:
    """Losses against the step, or None for a history too short to draw."""
    if len(history.get("step", [])) < 2:
        return None
    losses = [name for name in ("loss", "validation_loss") if name in history]
    others = [name for name in history if name not in losses and not _repeats(history, name, losses) and name not in ("skipped", "lr", "grad_norm")]
    return loss_curves({name: history[name] for name in ("step", *losses, *(o for o in others if o != "step"))}, names=losses)


def samples_against(run: Run, rows: Split | None, seed: int) -> tuple[Figure, str] | None:
    """Samples beside or over held-out data or exact samples of the target, and what the picture shows; None when the flow cannot be drawn."""
    units, named = run.units, _real_name(run)
    real = None if rows is None or not len(rows.x) else rows.x
    context = None if rows is None else rows.context
    if run.flow.context_shape is not None and context is None:
        return None
    if on_globe(run.flow) and run.flow.context_shape is None:
        drawn = sphere_map(run.flow, None if real is None else real.cpu(), resolution=POLE_TO_POLE, generator=generator_for(run.flow, seed))
        first = "Samples of the flow," if real is None else f"{named}, as many samples of the flow,"
        return drawn, f"{first} and the density it has learnt, on an equal-area map of the sphere."
    if tuple(run.flow.event_shape) == (2,) and run.flow.context_shape is None:
        names = units.names if units.names is not None and units.scale is None else None if units.names is None else units.names
        drawn = density_2d(run.flow, None if real is None else real.cpu(), names=names, generator=generator_for(run.flow, seed))
        first = "Samples of the flow" if real is None else f"{named}, as many samples of the flow,"
        return drawn, _units_of(run, f"{first} and the density it has learnt.", raw=False)
    count = PICTURES if units.is_image else SHOWN
    x = torch.cat([chunk.x for chunk in stream(run, count, seed=seed, contexts=context)])
    data = None if real is None else units.restore(real.cpu())
    if units.is_image:
        words = "Pictures drawn from the flow" + ("" if data is None else ", beside real ones that it has not seen") + "."
        return image_grid(units.as_pictures(x), None if data is None else units.as_pictures(data)), words
    if _is_field(run):
        return _fields(x, data)
    return _table(x, data, run)


def noise_to_data(run: Run, rows: Split | None, seed: int) -> tuple[Figure | bytes, str] | None:
    """Samples on their way: a strip of pictures, or the bytes of an animation, and what it shows; None for a flow without paths."""
    context = None if rows is None else rows.context
    if not has_paths(run.flow) or (run.flow.context_shape is not None and context is None):
        return None
    if run.units.is_image:
        paths = paths_of(run, STRIP_ROWS, seed=seed, contexts=context, frames=STRIP_TIMES)
        return path_strip(paths.places, paths.times), "A row for each sample, from noise on the left to a picture on the right."
    paths = paths_of(run, MOVING, seed=seed, contexts=context)
    width = math.prod(run.units.event_shape)
    seen = "" if width <= 2 or on_globe(run.flow) else f", seen in the first two of {width} columns,"
    return animation(run, paths), f"Samples{seen} move from noise to data; the faint dots are where they end."


def _table(x: Tensor, data: Tensor | None, run: Run) -> tuple[Figure, str]:
    width, columns = x[0].numel(), list(run.units.columns)
    if data is None:
        return marginals(None, x, columns), "Histograms of the samples" + (
            f", of the first {SHOWN_COLUMNS} of {width} columns." if width > SHOWN_COLUMNS else "."
        )
    if width == 1:
        return marginals(data, x, columns), _units_of(run, f"{_real_name(run)} as a histogram, samples of the flow as a line.")
    some = f"The first {COLUMNS} of {width} columns: histograms" if width > COLUMNS else "Histograms"
    words = f"{some} on the diagonal; below it, for each pair, the regions with half and with nine tenths of the mass."
    words += f" {_real_name(run)} are filled, samples are lines."
    return pair_plot(data, x, columns, columns=COLUMNS), _units_of(run, words)


def _is_field(run: Run) -> bool:
    """Whether an event is a number at each site of a plane lattice."""
    shape = tuple(run.units.event_shape)
    return run.config is not None and run.config.target is not None and len(shape) == 2 and min(shape) >= SMALLEST_FIELD


def _fields(x: Tensor, data: Tensor | None) -> tuple[Figure, str]:
    low, high = torch.quantile((x if data is None else data)[:PICTURES].flatten().double(), torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    high = max(high, low + 1e-6)
    drawn = image_grid(x[:PICTURES, None], None if data is None else data[:PICTURES, None], low=low, high=high)
    words = "Fields drawn from the flow" + ("" if data is None else ", beside exact samples of the target")
    return drawn, f"{words}: black is {rounded(low)} or less, white {rounded(high)} or more."


def _real_name(run: Run) -> str:
    return "Held-out data" if run.config is None or run.config.target is None else "Exact samples of the target (as data)"


def _units_of(run: Run, words: str, *, raw: bool = True) -> str:
    if run.units.scale is None:
        return words
    return f"{words} {'In the units of the file.' if raw else 'Columns are standardised.'}"


def as_png(figure: Figure) -> bytes:
    """A figure as the bytes of a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _repeats(history: Mapping[str, list[float]], name: str, losses: list[str]) -> bool:
    """Whether a column holds the numbers of a loss, as the NLL does under maximum likelihood, or their negatives, as the ELBO does."""

    def same(a: float, b: float) -> bool:
        return math.isclose(a, b, rel_tol=1e-6) or (math.isnan(a) and math.isnan(b))

    negative = [-value for value in history[name]]
    return any(all(map(same, values, history[other])) for other in losses for values in (history[name], negative))
