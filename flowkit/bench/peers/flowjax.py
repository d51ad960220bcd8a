"""flowjax under jit, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flowkit.bench.contender import Check, Contender
from flowkit.bench.fits import FitJob
from flowkit.bench.flow_models import Data, FlowjaxModel, FlowModel
from flowkit.bench.models import FLOOR, FlowSpec, make_flow
from flowkit.bench.peers.peer import Peer
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob
from flowkit.univariates import Affine


class Flowjax(Peer):
    """The recipes of ``flowjax.flows`` with our weights: its spline and ours have the same bins once the floors are equal."""

    name, packages = "flowjax", ("flowjax", "jax", "equinox", "optax", "paramax")

    def missing(self, session: Session) -> str | None:
        if session.setting.device == "cuda":
            return "JAX is run on the CPU only"
        return super().missing(session)

    def splines(self, job: SplineJob, session: Session) -> Iterator[Contender]:
        own = float(np.log(np.expm1(1 - job.floor)))  # what flowjax adds to every slope, and with which it is 1
        raw = job.params.numpy()
        start = np.zeros((*raw.shape[:-1], 1), np.float32)  # at the ends nothing is added
        bins, slopes = raw[..., : 2 * job.bins], raw[..., 2 * job.bins :] - np.float32(own)
        arrays = {"x": job.x.numpy(), "params": np.concatenate([bins, start, slopes, start], axis=-1)}
        jobs = session.jax.ask("spline", arrays, bins=job.bins, bound=job.bound, floor=job.floor)[0]["jobs"]
        inner = [*range(2 * job.bins), *range(2 * job.bins + 1, 3 * job.bins)]

        def check() -> Check:
            _, found = session.jax.ask("values", job=jobs["values"])
            results = [found["y"], found["log_det"], found["of_x"], found["of_params"][..., inner]]
            return job.judge(results if job.backward else results[:2])

        def close() -> None:
            for number in jobs.values():
                session.jax.forget(number)

        timer = session.jax.timer(jobs["both" if job.backward else "forward"])
        yield Contender("flowjax, jit", timer, check, "jit", note="in a process beside", close=close)

    def flows(self, spec: FlowSpec, data: Data, session: Session) -> Iterator[FlowModel]:
        if spec.features % 2 or spec.layers % 2 or len(set(spec.hidden)) != 1:
            return
        twin = make_flow(spec) if spec.univariate == "spline" else make_flow(spec, Affine(scale="softplus", floor=1e-2, offset=0.0))
        yield FlowjaxModel(spec, twin, session, data)

    def fits(self, job: FitJob, session: Session) -> Iterator[Contender]:
        yield job.in_jax(session, FLOOR)
