"""Samples of a flow with their log-density, streamed into a file at constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import check_temperature
from flowkit.experiment._paths import animation, has_paths, paths_of
from flowkit.experiment._sample_files import WRITERS, Chunk
from flowkit.experiment.evaluate import NUMBERS_AT_A_TIME, generator_for, is_slow
from flowkit.experiment.record import Run
from flowkit.experiment.yaml_file import parse_yaml
from flowkit.training.files import write_bytes

NUMBERS_PER_CHUNK = 2**20  # in one chunk, so that memory does not grow with n
MOST_PICTURES, MOST_MOVING = 10_000, 5000


@dataclass(frozen=True)
class Written:
    """What ``write_samples`` wrote: the file and the number of samples in it."""

    path: Path
    count: int


def write_samples(
    run: Run, path: str | Path, n: int, *, seed: int = 0, contexts: Tensor | None = None, temperature: float = 1.0, progress: bool = False
) -> Written:
    """Write n samples and their log-densities to a file, in the units of the data as they were given.

    ``.npz`` holds ``x`` (n, *event), ``log_prob`` (n,) and, for a conditional flow, ``context``; ``.csv`` and ``.parquet`` have
    a column for each number of an event and ``log_prob``; ``.xyz`` and ``.pdb`` hold structures of a molecule; ``.png`` is a grid of
    pictures; ``.gif`` shows samples of a continuous flow on their way from noise to data, as many as fit a small file. The file appears
    whole or not at all.

    Args:
        run: whose flow is sampled.
        path: with one of these endings.
        n: number of samples.
        seed: of the draws.
        contexts: (M, *context_shape) for a conditional flow; sample i has context i modulo M.
        temperature: scales the base's spread; the log-density stays that of the flow.
        progress: show a bar on standard error when there are several chunks.

    Raises:
        ConfigError: the ending is none of these, the events are no pictures, the flow has no paths, or a context is missing.
    """
    path = Path(path)
    check_temperature(temperature, "sample")
    writer = _writer_for(path, run, n)
    _check_contexts(run, contexts)
    if path.suffix.lower() == ".gif":
        write_bytes(path, animation(run, paths_of(run, n, seed=seed, contexts=contexts, temperature=temperature)))
        return Written(path, n)
    size = chunk_size(run)
    with progress_bar("sample", n, show=progress and n > size) as advance, writer(path, run.units, n) as write:
        for chunk in stream(run, n, seed=seed, contexts=contexts, temperature=temperature):
            write(chunk)
            advance(len(chunk.x))
    return Written(path, n)


def stream(run: Run, n: int, *, seed: int = 0, contexts: Tensor | None = None, temperature: float = 1.0) -> Iterator[Chunk]:
    """Samples in chunks, on the CPU, in the units of the data as they were given."""
    generator, flow, size = generator_for(run.flow, seed), run.flow, chunk_size(run)
    for start in range(0, n, size):
        count = min(size, n - start)
        with torch.no_grad():
            if contexts is None:
                x, log_prob = flow.sample_and_log_prob((count,), generator=generator, temperature=temperature)
                given = None
            else:
                given = contexts[torch.arange(start, start + count) % len(contexts)].to(generator.device)
                x, log_prob = flow.sample_and_log_prob((), given, generator=generator, temperature=temperature)
        yield Chunk(run.units.restore(x.cpu()), log_prob.cpu() + run.units.raw_log_det, None if given is None else given.cpu())


def context_of(run: Run, text: str) -> Tensor:
    """One context written as YAML, a label or a list of numbers, as a tensor (1, *context_shape).

    Raises:
        ConfigError: the flow takes none, or one of another shape.
    """
    shape, value = run.flow.context_shape, parse_yaml(text, "--context")
    if shape is None:
        raise ConfigError(f"{run.folder}: the flow takes no context. Leave --context out.")
    expected = "a label" if shape == () else f"numbers of shape {shape}"
    try:
        context = torch.tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"--context: expected {expected}; got {value!r}.") from None
    context = context.long() if shape == () else context.to(torch.get_default_dtype())
    if context.shape != torch.Size(shape) or (shape == () and not isinstance(value, int)):
        raise ConfigError(f"--context: expected {expected}; got {value!r}.")
    return context[None]


def chunk_size(run: Run) -> int:
    """Samples drawn at a time."""
    most = min(NUMBERS_PER_CHUNK, NUMBERS_AT_A_TIME) if is_slow(run.flow) else NUMBERS_PER_CHUNK
    return max(1, min(8192, most // max(1, math.prod(run.units.event_shape))))


def _writer_for(path: Path, run: Run, n: int) -> Any:
    if n < 1:
        raise ConfigError(f"sample: expected a number of samples n >= 1; got {n}.")
    kind = path.suffix.lower()
    if kind not in WRITERS and kind != ".gif":
        raise ConfigError(f"{path}: cannot write a {kind or 'nameless'} file. Give it one of the endings {', '.join((*WRITERS, '.gif'))}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist. Create it, or choose another path.")
    if path.is_dir():
        raise ConfigError(f"{path}: expected a file; got a folder. Choose another path.")
    if kind == ".png":
        if not run.units.is_image:
            others = ", ".join(ending for ending in WRITERS if ending not in (".png", ".xyz", ".pdb"))
            raise ConfigError(f"{path}: .png is for pictures; events here have shape {run.units.event_shape}. Use {others}.")
        if n > MOST_PICTURES:
            raise ConfigError(f"{path}: a grid holds at most {MOST_PICTURES:,} pictures; got n={n}. Use .npz.")
    if kind == ".gif":
        if not has_paths(run.flow):
            raise ConfigError(f"{path}: .gif shows samples on their way from noise; {type(run.flow).__name__} has no paths in time. Use {', '.join(WRITERS)}.")
        if n > MOST_MOVING:
            raise ConfigError(f"{path}: an animation holds at most {MOST_MOVING:,} samples; got n={n}. Give a smaller -n.")
        return None
    return WRITERS[kind]


def _check_contexts(run: Run, contexts: Tensor | None) -> None:
    shape = run.flow.context_shape
    if shape is not None and contexts is None:
        what = "a label" if shape == () else f"{math.prod(size or 1 for size in shape)} numbers" if isinstance(shape, tuple) else "a context"
        raise ConfigError(f"{run.folder}: the flow is conditional; expected {what} to sample for. Give it with --context.")
    if shape is None and contexts is not None:
        raise ConfigError(f"{run.folder}: the flow takes no context. Leave --context out.")
