"""Coupling flows: a training step, log-densities, draws."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from flowkit.bench.contender import Contender, Group, refused
from flowkit.bench.flow_models import JOBS, Data, FlowModel, TorchModel, floor
from flowkit.bench.models import FlowSpec, make_flow
from flowkit.bench.peers.peer import Peer, present
from flowkit.bench.report import Case
from flowkit.bench.session import Session
from flowkit.bench.suites.suite import Suite
from flowkit.core.flow import Flow
from flowkit.training import compile as compile_flow

BATCH, ROUNDS = 1024, 15
SPECS = (FlowSpec(), FlowSpec(univariate="affine"))
TITLES = {"step": "training step", "log_prob": "log_prob", "sample": "sample"}


class Density(Suite):
    """Coupling flows."""

    name, title = "density", "Coupling flows"
    about = (
        "Coupling flows of equal networks, in float32. A training step is zero_grad, the loss of a batch, backward and Adam "
        "(fused, the quickest that torch has, for all in torch). 'sample' draws as many events as "
        "the batch has, random numbers included. Every peer has our weights, or ours are read from it; where its scale map is another, so is that of the flow "
        "of ours it is compared with, in float64. The floor is the conditioner networks alone, forward for log_prob and sample, a whole step else."
    )

    def cases(self, session: Session) -> Iterator[Case]:
        for spec in SPECS:
            spec = FlowSpec(spec.kind, spec.univariate, 4, 2, (8, 8), 4) if session.setting.quick else spec
            data = Data.normal(spec.features, 32 if session.setting.quick else BATCH, 32 if session.setting.quick else BATCH, session.setting.device)
            yield from compared(spec, data, JOBS, ROUNDS, session)


def compared(spec: FlowSpec, data: Data, jobs: tuple[str, ...], rounds: int, session: Session) -> Iterator[Case]:
    """A case for each job."""
    models, broken = [*ours(spec, data, session)], []
    for peer in present(session):
        made, fault = _flows(peer, spec, data, session)
        models += made
        broken += fault
    for job in jobs:
        rivals = [*(model.contender(job, data) for model in models), *broken, floor(spec, session, job, data)]
        yield session.compare(f"{spec.describe()}: {TITLES[job]}, batch {len(data.x) if job != 'sample' else data.draws}", rivals, rounds)
    for model in models:
        model.close()


def ours(spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
    """Our flow as it is, and by ``flowkit.compile``."""
    yield in_torch("flowkit", make_flow(spec).to(data.x.device), session)
    if not session.setting.quick:
        flow = make_flow(spec).to(data.x.device)
        yield in_torch("flowkit, compiled", flow, session, compile_flow(flow))


def in_torch(name: str, flow: Flow, session: Session, callable_flow: Any = None) -> TorchModel:
    """One of our flows in a comparison; ``callable_flow`` is called in its place, and shares its parameters."""
    fast = flow if callable_flow is None else callable_flow
    twin = copy.deepcopy(flow)
    group: Group = "ours"
    return TorchModel(name, group, flow, fast.log_prob, lambda count: fast.sample((count,)), fast.to_data, fast.to_latent, twin, session)


def _flows(peer: Peer, spec: FlowSpec, data: Data, session: Session) -> tuple[list[FlowModel], list[Contender]]:
    """A peer's models; or, where it fails to be built, a contender that says so."""
    try:
        return list(peer.flows(spec, data, session)), []
    except Exception as error:  # a peer may raise anything; the others are to be timed all the same
        return [], [refused(peer.name, error)]
