"""Samples of a continuous flow on their way from noise to data."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.domain import Sphere
from flowkit.experiment.evaluate import generator_for
from flowkit.experiment.record import Run
from flowkit.plots import path_animation

FRAMES = 30


class Paths(NamedTuple):
    """Places (T, N, *event) in the units of the data as they were given, at the times (T,)."""

    places: Tensor
    times: list[float]


def has_paths(flow: Any) -> bool:
    """Whether a flow's samples come along paths in time, from draws that need nothing else."""
    return hasattr(flow, "path") and flow.base.context_shape is None


def paths_of(run: Run, n: int, *, seed: int = 0, contexts: Tensor | None = None, frames: int | None = None, temperature: float = 1.0) -> Paths:
    """Where n samples are at evenly spaced times, on the CPU; sample i has context i modulo their number."""
    flow, generator = run.flow, generator_for(run.flow, seed)
    ends = flow.bijector.times().tolist() if hasattr(flow.bijector, "times") else [0.0, 1.0]
    times = torch.linspace(ends[0], ends[1], FRAMES if frames is None else frames, device=generator.device)
    given = None if contexts is None else contexts[torch.arange(n) % len(contexts)].to(generator.device)
    with torch.no_grad():
        z = flow.base.sample((n,), generator=generator, temperature=temperature)
        places = flow.path(z, times, given).cpu()
    shown = torch.stack([run.units.restore(step) for step in places])
    return Paths(run.units.as_pictures(shown) if run.units.is_image else shown, times.tolist())


def animation(run: Run, paths: Paths) -> bytes:
    """The paths as an animated GIF: pictures, dots on the globe, or dots in the plane of the first two columns."""
    if run.units.is_image:
        return path_animation(paths.places, paths.times)
    return path_animation(paths.places, paths.times, names=run.units.columns, sphere=on_globe(run.flow))


def on_globe(flow: Any) -> bool:
    """Whether events are directions in space."""
    domain = flow.support
    return isinstance(domain, Sphere) and tuple(flow.event_shape) == (3,)
