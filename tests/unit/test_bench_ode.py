"""The benchmark of continuous flows: every way to do a job is judged, and all give the same. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from flowkit.bench import Setting, run
from flowkit.bench.contender import Contender
from flowkit.bench.markdown import markdown
from flowkit.bench.ode_models import STRICT, TOLERANCE, WEIGHTS, OdeJob, OdeSpec, Ours, Plain, counted
from flowkit.bench.peers.ode_peer import ODE_PEERS, OdePeer, ode_peers
from flowkit.bench.report import Case, Row
from flowkit.bench.session import Session
from flowkit.bench.suites.growth import peak
from flowkit.bench.suites.ode import asked, contenders

QUICK = Setting(device="cpu", threads=1, quick=True, rounds=1)
SMALL = OdeSpec(3, 8, 16)


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(QUICK)
    yield made
    made.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other library is installed."""
    for peer in ODE_PEERS.values():
        monkeypatch.setattr(peer, "missing", lambda session: "left out")


def verified(found: Iterator[Contender]) -> dict[str, bool]:
    made = list(found)
    agree = {}
    for each in made:
        assert each.check is not None
        agree[each.name] = each.check().agrees
        assert each.facts["nfe"]
    return agree


@pytest.mark.parametrize("kind", ["solve", "step"])
@pytest.mark.parametrize("steps", [None, 5])
def test_ours_agree(kind: str, steps: int | None, session: Session) -> None:
    """O-1: the kernel, the engine in plain torch, and its estimate with given probes are what they are judged by, in float64."""
    agree = verified(contenders(OdeJob(SMALL, kind, steps), [], session))  # type: ignore[arg-type]
    assert agree == {"flowkit": True, "flowkit, plain torch": True, "flowkit, plain torch, Hutchinson": True}


@pytest.mark.parametrize("kind", ["solve", "step"])
@pytest.mark.parametrize("steps", [None, 20])
def test_torchdiffeq_agrees(kind: str, steps: int | None, session: Session) -> None:
    """O-1: its exact and estimated divergence and both adjoints give our values; rk4 takes the same steps."""
    pytest.importorskip("torchdiffeq")
    found = list(ODE_PEERS["torchdiffeq"].contenders(OdeJob(SMALL, kind, steps), session))  # type: ignore[arg-type]
    agree = verified(iter(found))
    assert len(agree) == (2 if kind == "solve" else 4) and all(agree.values()), agree
    if steps is not None:
        assert found[0].facts["nfe"] == "80"  # four stages of twenty steps


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["solve", "step"])
def test_diffrax_agrees(kind: str, session: Session) -> None:
    """O-1."""
    pytest.importorskip("diffrax")
    assert verified(ODE_PEERS["diffrax"].contenders(OdeJob(SMALL, kind), session)) == {"diffrax, exact, jit": True}  # type: ignore[arg-type]


def test_the_judge_sees_a_wrong_weight_and_a_wrong_sign() -> None:
    job, other = OdeJob(SMALL, "solve"), OdeJob(SMALL, "step")
    call = Ours(job, job.flow(), job.x)
    right = call(STRICT)
    assert job.judge(right, right).agrees
    assert not job.judge({**right, "log_det": -right["log_det"]}, right).agrees
    with pytest.raises(ValueError, match="results"):
        job.judge({"z": right["z"]}, right)
    step = Ours(other, other.flow(), other.x)
    gradients = step(STRICT)
    assert set(gradients) == {"loss", *WEIGHTS} and other.judge(gradients, gradients).agrees
    with torch.no_grad():
        call.parameters["W2"].mul_(1.01)
        step.parameters["W2"].mul_(1.01)
    assert not job.judge(call(STRICT), right).agrees and not other.judge(step(STRICT), gradients).agrees


def test_the_divergences_of_a_peer_are_ours() -> None:
    """O-1: exact, and e' J e with the probe given, against the closed form and the Jacobian."""
    torchdiffeq = pytest.importorskip("flowkit.bench.peers.torchdiffeq")
    job = OdeJob(SMALL)
    weights = {name: weight.double() for name, weight in job.weights.items()}
    field, x, probes, t = job.flow().double().field, job.x.double(), job.probes.double(), torch.tensor(0.3, dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: field.velocity(t, y)))(x)
    for given, wanted in ((None, jacobian.diagonal(dim1=1, dim2=2).sum(1)), (probes, torch.einsum("bi,bij,bj->b", probes, jacobian, probes))):
        v, divergence = torchdiffeq.Slopes(weights, given)(t, (x, x.new_zeros(len(x))))
        torch.testing.assert_close(v, field.velocity(t, x))
        torch.testing.assert_close(divergence, wanted)


def test_the_solve_has_realistic_steps() -> None:
    """The field bends: more than one and a half times the evaluations of an almost straight one, and samples differ."""
    job = OdeJob(OdeSpec(2, 64, 64))
    flow = job.flow()
    stats = flow.bijector.transport(job.x, inverse=True).stats  # type: ignore[attr-defined]
    assert stats.nfe.double().mean() > 25 and stats.nfe.max() > stats.nfe.min() and (flow.rtol, flow.atol) == (TOLERANCE, TOLERANCE)


def test_memory_of_the_discrete_adjoint() -> None:
    """O-2: below 25 % of backprop at 200 steps; in float64 the gradients are equal to 1e-12."""
    job = OdeJob(OdeSpec(3, 32, 64), "step", 200)
    calls = {name: Plain(job, job.flow(adjoint=name).double(), job.x.double()) for name in ("discrete", "backprop")}
    discrete, backprop = (call() for call in calls.values())
    for name in WEIGHTS:
        assert (discrete[name] - backprop[name]).abs().max() <= 1e-12 * backprop[name].abs().max().clamp(min=1)
    held = {name: peak(call, "cpu") for name, call in calls.items()}
    assert held["discrete"] < 0.25 * held["backprop"], held


def test_what_is_asked_for_is_told() -> None:
    rows = [Row("flowkit", "ours"), Row("torchdiffeq, exact", "eager"), Row("torchdiffeq, Hutchinson", "eager"), Row("diffrax, exact, jit", "compiled")]
    for row, time in zip(rows, (1.0, 9.0, 2.0, 3.5), strict=True):
        row.times, row.median = [time, time], time
    case = Case("job", rows)
    assert asked(case, OdeJob(OdeSpec(2, 64, 256))) == [
        "flowkit is faster than torchdiffeq, exact: 9.0x where 8x is asked for; torchdiffeq, Hutchinson: 2.0x where 3x is asked for, MISSED; "
        "diffrax, exact, jit: 3.5x where 3x is asked for."
    ]
    rows[0].median = None
    assert asked(case, OdeJob(OdeSpec(2, 64, 256))) == []


def test_counted() -> None:
    assert counted(7) == "7" == counted(torch.tensor([7, 7])) and counted(torch.tensor([2, 8])) == "5, most 8"


@pytest.mark.usefixtures("alone")
def test_the_suite_runs_without_peers() -> None:
    report = run("ode", QUICK, command="flowkit bench --suite ode")
    assert set(report.skipped) == {"torchdiffeq", "diffrax"} and len(report.cases) == 4
    for case in report.cases:
        assert [row.refused for row in case.rows] == [None] * 3 and all(row.median and row.note.startswith("NFE ") for row in case.rows)
    assert [found.axis for found in report.curves] == ["steps", "width", "features", "batch", "steps"]
    assert "backprop holds" in report.curves[-1].notes[-1] and "Not run: diffrax: left out." in markdown(report)


def test_a_peer_that_fails_leaves_the_others_their_times(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(OdePeer):
        name = "failing"

        def contenders(self, job: OdeJob, session: Session) -> Iterator[Contender]:
            raise ValueError("not today")

    monkeypatch.setattr("flowkit.bench.peers.ode_peer.ODE_PEERS", {"failing": ODE_PEERS.pop("failing")})
    case = session.compare("job", contenders(OdeJob(SMALL), ode_peers(session), session), 1)
    assert case.rows[0].median and case.rows[-1].median is None and "not today" in str(case.rows[-1].refused)
