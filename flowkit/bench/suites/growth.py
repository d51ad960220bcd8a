"""How cost grows with batch, dimension and depth."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from flowkit.bench.flow_models import training_step
from flowkit.bench.models import FlowSpec, make_flow
from flowkit.bench.report import Curve
from flowkit.bench.session import Session
from flowkit.bench.suites.suite import Suite
from flowkit.bench.summary import overall_slope, slopes
from flowkit.bench.timing import IDLE, free_share, kept

FEATURES, BATCH, LAYERS, HIDDEN, BINS = 16, 256, 2, (32, 32), 8
BATCHES = (100, 1_000, 10_000, 100_000, 1_000_000)
DIMENSIONS = tuple(2**power for power in range(1, 11))
DEPTHS = tuple(2**power for power in range(7))
ROUNDS = 5
STEEP = 1.15  # a slope beyond this is flagged: caches that overflow cost some, a term that grows faster costs more
JOBS = ("log_prob", "step")


class Growth(Suite):
    """Cost along three axes."""

    name, title = "growth", "Cost against batch, dimension and depth"
    about = (
        f"A coupling neural spline flow of ours, in float32: D = {FEATURES}, batch {BATCH}, {LAYERS} layers, networks {'x'.join(map(str, HIDDEN))}, "
        f"{BINS} bins; one of the sizes varied at a time; log_prob without gradients, and a training step with Adam. Memory is the peak of what a call "
        "allocates beyond the parameters; below 8 MB a layer's states lie in memory kept since the step before, which is not counted, so there the "
        f"step's memory jumps. Slopes are log-log, between neighbours and of the line through all; beyond {STEEP} they are flagged."
    )

    def curves(self, session: Session) -> Iterator[Curve]:
        quick = session.setting.quick
        axes: list[tuple[str, tuple[int, ...], Callable[[int], tuple[FlowSpec, int]]]] = [
            ("batch", BATCHES, lambda size: (_spec(), size)),
            ("features", DIMENSIONS, lambda size: (_spec(features=size), BATCH)),
            ("layers", DEPTHS, lambda size: (_spec(layers=size), BATCH)),
        ]
        for axis, sizes, make in axes:
            yield measure(axis, sizes[:2] if quick else sizes, make, session)


def _spec(**sizes: Any) -> FlowSpec:
    return FlowSpec(**{"features": FEATURES, "layers": LAYERS, "hidden": HIDDEN, "bins": BINS, **sizes})


def measure(axis: str, sizes: tuple[int, ...], make: Callable[[int], tuple[FlowSpec, int]], session: Session) -> Curve:
    """Seconds and bytes at all sizes; every round goes through the sizes, so that what else the machine does falls on all."""
    calls: dict[int, dict[str, Callable[[], Any]]] = {}
    held: dict[str, list[float | None]] = {job: [] for job in JOBS}
    for size in sizes:
        spec, batch = make(size)
        calls[size] = _calls(spec, batch, session.setting.device)
        for job, call in calls[size].items():
            session.watch(f"{axis} {size:,}: {job}, memory")
            call()
            held[job].append(float(peak(call, session.setting.device)))
    rounds, idle = session.setting.rounds_of(ROUNDS), []
    taken: dict[str, dict[int, list[float]]] = {job: {size: [] for size in sizes} for job in JOBS}
    for number in range(rounds):
        idle.append(free_share())
        for size in sizes if number % 2 == 0 else sizes[::-1]:
            for job in JOBS:
                session.watch(f"{axis} {size:,}: {job}, round {number + 1} of {rounds}")
                take = session.timer(calls[size][job])
                first = take(1)[0]
                taken[job][size].append(statistics.median(take(10)) if first < 0.05 else first)
    seconds: dict[str, list[float | None]] = {job: [statistics.median(taken[job][size][n] for n in kept(idle)) for size in sizes] for job in JOBS}
    found = curve(axis, [float(size) for size in sizes], seconds, held)
    free = min(idle[number] for number in kept(idle))
    busy = "" if free >= IDLE else " The machine was busy: these times say little."
    found.notes.insert(0, f"{rounds} rounds, of which {len(kept(idle))} count; at least {100 * free:.0f} % of the machine was free before each.{busy}")
    return found


def curve(axis: str, x: list[float], seconds: dict[str, list[float | None]], held: dict[str, list[float | None]]) -> Curve:
    """Slopes of what was measured, and a sentence about each that is steep."""
    found = Curve(f"Cost against {axis}", axis, x, seconds, held, {}, {})
    for what, values in [*((job, seconds[job]) for job in seconds), *((f"{job}, memory", held[job]) for job in held)]:
        numbers = [value for value in values if value]
        if len(numbers) != len(x):
            continue
        found.slopes[what] = [None, *slopes(x, numbers)]
        found.overall[what] = overall_slope(x, numbers)
        steep = [f"{x[i]:,.0f} to {x[i + 1]:,.0f}: {slope:.2f}" for i, slope in enumerate(slopes(x, numbers)) if slope > STEEP]
        if steep:
            found.notes.append(f"Steeper than linear: {what}, {axis} {'; '.join(steep)}.")
    return found


def _calls(spec: FlowSpec, batch: int, device: str) -> dict[str, Callable[[], Any]]:
    flow = make_flow(spec).to(device)
    x = torch.randn(batch, spec.features, generator=torch.Generator().manual_seed(1)).to(device)

    def log_prob() -> Any:
        with torch.no_grad():
            return flow.log_prob(x)

    return {"log_prob": log_prob, "step": training_step(flow, flow.log_prob, x)}


def peak(call: Callable[[], Any], device: str) -> int:
    """Most bytes that a call holds at once beyond what was there; on a CPU by replaying the profiler's record of allocations."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with unheard(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Standard error is closed to what the profiler's library writes there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
