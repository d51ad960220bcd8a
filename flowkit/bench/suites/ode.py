"""Continuous flows: the log-det solve and the training step beside torchdiffeq and diffrax, and how cost and memory grow."""

from __future__ import annotations

import importlib.metadata
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from flowkit.bench.contender import Contender, refused
from flowkit.bench.flow_models import distance
from flowkit.bench.ode_models import STRICT, TOLERANCE, OdeJob, OdeSpec, Ours, Plain
from flowkit.bench.peers.ode_peer import OdePeer, ode_peers
from flowkit.bench.report import Case, Curve
from flowkit.bench.session import Session
from flowkit.bench.suites.growth import curve, peak
from flowkit.bench.suites.suite import Suite
from flowkit.bench.summary import ratio

SPECS = (OdeSpec(2, 64, 256), OdeSpec(2, 64, 512), OdeSpec(2, 64, 4096), OdeSpec(6, 64, 1024), OdeSpec(43, 128, 256))
SMALL = (OdeSpec(2, 8, 16),)
STEPS, ROUNDS, ROUNDS_OF_CURVES = 20, 9, 5
# what issue 5, O-1, asks for: times faster than torchdiffeq with the exact divergence, by the sizes; and than the others
SOLVES = {(2, 256): 8.0, (2, 4096): 5.0, (6, 1024): 8.0, (43, 256): 30.0}
TRAINING, ESTIMATED, JITTED, HELD = 5.0, 3.0, 3.0, 0.25
Jobs = dict[str, Callable[[], Any]]


class Ode(Suite):
    """Continuous flows."""

    name, title = "ode", "Continuous flows"
    about = (
        "Flows of a tanh velocity field with two hidden layers of width w, float32, from the data at t = 1 to t = 0, its weights 2.5 times the usual starting "
        "ones: the 'log-det solve' gives z and log_det without gradients; the 'training step' is the loss and its gradient in all weights. dopri5 has "
        f"rtol = atol = {TOLERANCE:.0e}; rk4 takes {STEPS} steps of the 3/8 rule. 'flowkit' is the flow as users call it, the exact divergence in closed form; "
        "'plain torch' is its engine without the kernel, discrete adjoint; steps are each sample's own. torchdiffeq has one step for the batch; its divergence "
        "is by automatic differentiation, exact or with one probe for a sample (Hutchinson), the same that ours gets; diffrax steps per sample (vmap), jitted. "
        "NFE: evaluations of the field, mean and most where samples differ, '+' those of a backward solve. Verified against float64, to 1e-4 of the "
        f"largest: rk4 against the same steps; dopri5 at rtol = atol = {STRICT:.0e} against the solution to 1e-9, the error at the timed tolerance told "
        "beside. The curves are of 'flowkit', memory what torch allocates; the last one compares the adjoints of the engine in plain torch."
    )

    def cases(self, session: Session) -> Iterator[Case]:
        peers, quick = ode_peers(session), session.setting.quick
        about_the_run = [*_versions(peers), *_priority()]
        for spec in SMALL if quick else SPECS:
            for steps in (None, STEPS):
                for kind in ("solve", "step"):
                    job = OdeJob(spec, kind, steps, session.setting.device)  # type: ignore[arg-type]
                    yield compared(job, peers, session, about_the_run)
                    about_the_run = []

    def curves(self, session: Session) -> Iterator[Curve]:
        quick, device = session.setting.quick, session.setting.device
        axes: list[tuple[str, tuple[int, ...], Callable[[int], OdeJob]]] = [
            ("steps", (10, 20, 50, 100, 200), lambda size: OdeJob(OdeSpec(6, 64, 256), steps=size, device=device)),
            ("width", (16, 32, 64, 128, 256), lambda size: OdeJob(OdeSpec(6, size, 256), steps=STEPS, device=device)),
            ("features", (2, 4, 8, 16, 32, 64), lambda size: OdeJob(OdeSpec(size, 64, 256), steps=STEPS, device=device)),
            ("batch", (64, 256, 1024, 4096, 16384), lambda size: OdeJob(OdeSpec(6, 64, size), steps=STEPS, device=device)),
        ]
        for axis, sizes, make in axes:
            yield grown(axis, sizes[:2] if quick else sizes, lambda size, make=make: both(make(size)), session)  # type: ignore[misc]
        yield adjoints((2, 4) if quick else (25, 50, 100, 200), session)


def compared(job: OdeJob, peers: list[OdePeer], session: Session, notes: list[str]) -> Case:
    """All who do a job."""
    title = f"{'log-det solve' if job.kind == 'solve' else 'training step'}, {job.method}{'' if job.steps is None else f' {job.steps} steps'}"
    case = session.compare(f"{title}: {job.spec.describe()}", list(contenders(job, peers, session)), ROUNDS, notes=notes)
    for row in case.rows:
        if "nfe" in row.facts:
            row.note = f"NFE {row.facts['nfe']}"
    case.notes += asked(case, job)
    return case


def contenders(job: OdeJob, peers: list[OdePeer], session: Session) -> Iterator[Contender]:
    """Ours and the peers'."""
    own, plain = Ours(job, job.flow(), job.x), Plain(job, job.flow(), job.x)
    probed = Plain(job, job.flow(divergence="hutchinson"), job.x, job.probes)
    yield job.contender("flowkit", "ours", own, session, own.nfe)
    yield job.contender("flowkit, plain torch", "ours", plain, session, plain.nfe)
    yield job.contender("flowkit, plain torch, Hutchinson", "ours", probed, session, probed.nfe, probed=True)
    for peer in peers:
        try:
            yield from list(peer.contenders(job, session))
        except Exception as error:  # a peer may raise anything; the others are to be timed all the same
            yield refused(peer.name, error)


def asked(case: Case, job: OdeJob) -> list[str]:
    """What is asked for in this case, and what was found: the leader's time against each peer's, round by round."""
    timed = {row.name: row for row in case.rows if row.median is not None}
    leader, found = timed.get("flowkit"), []
    exact = TRAINING if job.kind == "step" else SOLVES.get((job.spec.features, job.spec.batch))
    for name, row in timed.items():
        if leader is None or row.group == "ours":
            continue
        bar = JITTED if name.startswith("diffrax") else ESTIMATED if "Hutchinson" in name else exact
        if bar is not None:
            gain = ratio(row.times, leader.times)
            found.append(f"{name}: {gain:.1f}x where {bar:.0f}x is asked for{'' if gain >= bar else ', MISSED'}")
    return [f"flowkit is faster than {'; '.join(found)}."] if found else []


def both(job: OdeJob) -> Jobs:
    """A solve and a training step."""
    step = OdeJob(job.spec, "step", job.steps, job.device)
    return {"solve": Ours(job, job.flow(), job.x), "step": Ours(step, step.flow(), step.x)}


def grown(axis: str, sizes: tuple[int, ...], make: Callable[[int], Jobs], session: Session) -> Curve:
    """Seconds and bytes at all sizes; every round goes through the sizes, so that what else the machine does falls on all."""
    calls = {size: make(size) for size in sizes}
    names = list(calls[sizes[0]])
    held: dict[str, list[float | None]] = {name: [] for name in names}
    for size in sizes:
        for name, call in calls[size].items():
            session.watch(f"{axis} {size:,}: {name}, memory")
            call()
            held[name].append(float(peak(call, session.setting.device)))
    taken: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in names}
    rounds = session.setting.rounds_of(ROUNDS_OF_CURVES)
    for number in range(rounds):
        for size in sizes if number % 2 == 0 else sizes[::-1]:
            for name, call in calls[size].items():
                session.watch(f"{axis} {size:,}: {name}, round {number + 1} of {rounds}")
                take = session.timer(call)
                first = take(1)[0]
                taken[name][size].append(statistics.median(take(10)) if first < 0.02 else first)
    seconds: dict[str, list[float | None]] = {name: [statistics.median(taken[name][size]) for size in sizes] for name in names}
    return curve(axis, [float(size) for size in sizes], seconds, held)


def adjoints(sizes: tuple[int, ...], session: Session) -> Curve:
    """A training step's memory and time by the discrete adjoint and by automatic differentiation through all steps, in plain torch."""

    def make(steps: int, dtype: torch.dtype = torch.float32) -> dict[str, Plain]:
        job = OdeJob(OdeSpec(6, 64, 256), "step", steps, session.setting.device)
        return {f"{name} adjoint": Plain(job, job.flow(adjoint=name).to(dtype), job.x.to(dtype)) for name in ("discrete", "backprop")}

    found = grown("steps", sizes, lambda steps: dict(make(steps)), session)
    discrete, backprop = (found.bytes[f"{name} adjoint"][-1] or float("nan") for name in ("discrete", "backprop"))
    ours, theirs = (call() for call in make(sizes[-1], torch.float64).values())
    off = max(distance(ours[name], theirs[name]) for name in ours)
    share, bar = discrete / backprop, "" if session.setting.quick else f" (less than {100 * HELD:.0f} % is asked for)"
    found.title = "Memory of the adjoints against steps, plain torch"
    found.notes.append(
        f"At {sizes[-1]} steps the discrete adjoint holds {100 * share:.1f} % of what backprop holds{bar}; in float64 their gradients differ by {off:.1e}."
    )
    return found


def _versions(peers: list[OdePeer]) -> list[str]:
    return [f"Versions: {', '.join(f'{peer.name} {importlib.metadata.version(peer.packages[0])}' for peer in peers)}."] if peers else []


def _priority() -> list[str]:
    """What makes times good on a machine that is not free."""
    if not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) not in (os.SCHED_FIFO, os.SCHED_RR):
        return []
    return ["The run had real-time priority over what else the machine did, which is therefore not free before a round; caches are shared."]
