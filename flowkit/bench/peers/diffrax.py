"""diffrax under jit, in the process beside."""

from __future__ import annotations

from collections.abc import Iterator

from flowkit.bench.contender import Check, Contender
from flowkit.bench.ode_models import STRICT, TOLERANCE, OdeJob, counted
from flowkit.bench.peers.ode_peer import OdePeer
from flowkit.bench.session import Session


class Diffrax(OdePeer):
    """``diffeqsolve`` for each sample by ``vmap``, with steps of its own, under ``jit``; exact divergence; its default adjoint."""

    name, packages = "diffrax", ("diffrax", "jax", "equinox")

    def missing(self, session: Session) -> str | None:
        if session.setting.device == "cuda":
            return "JAX is run on the CPU only"
        return super().missing(session)

    def contenders(self, job: OdeJob, session: Session) -> Iterator[Contender]:
        if job.steps is not None:
            return
        arrays = {name: weight.cpu().numpy() for name, weight in (*job.weights.items(), ("x", job.x))}
        numbers = session.jax.ask("ode", arrays, tolerance=TOLERANCE, strict=STRICT)[0]["jobs"]

        def check() -> Check:
            strict, timed = (session.jax.ask("values", job=numbers[f"{job.kind}, {tolerance}"])[1] for tolerance in (STRICT, TOLERANCE))
            strict.pop("nfe")
            made.facts["nfe"] = counted(timed.pop("nfe"))
            return job.judge(strict, timed)

        def close() -> None:
            for number in numbers.values():
                session.jax.forget(number)

        made = Contender("diffrax, exact, jit", session.jax.timer(numbers[job.kind]), check, "compiled", close=close)
        yield made
