"""Contenders of benchmarks: who disagrees gets no time. Nothing here is timed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from flowkit.bench import Setting, run
from flowkit.bench.cells import of_case
from flowkit.bench.contender import Check, Contender
from flowkit.bench.flow_models import Data, TorchModel
from flowkit.bench.jax_side.wire import receive, send
from flowkit.bench.models import FlowSpec, flowjax_weights, layers_of, linears_of, make_flow
from flowkit.bench.peers import PEERS, Peer
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob, for_zuko

QUICK = Setting(device="cpu", threads=1, quick=True)


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(QUICK)
    yield made
    made.close()


def contender(name: str, error: float, group: Any = "eager") -> Contender:
    return Contender(name, lambda repeats: [0.01] * repeats, lambda: Check(error, 1e-3, "all"), group)


def failing(repeats: int) -> list[float]:
    raise ValueError("not today")


def test_who_disagrees_gets_no_time(session: Session) -> None:
    rivals = [contender("ours", 0.0, "ours"), contender("right", 1e-4), contender("wrong", 1e-2), contender("broken", math.nan)]
    case = session.compare("job", [*rivals, Contender("failing", failing, None, "eager")], 2)
    ours, right, wrong, broken, fallen = case.rows
    assert right.median == 0.01 and ours.gain["peers"] == 1.0
    for row in (wrong, broken, fallen):
        assert row.median is None and row.quartiles is None and row.times == [] and row.first is None and row.refused
    assert "1.0e-02" in str(wrong.refused) and "not today" in str(fallen.refused)
    shown = of_case(case)[1]
    assert [row[1] for row in shown] == ["10.0", "10.0", "no time", "no time", "no time"]


def test_who_disagrees_after_a_single_run_gets_no_time(session: Session) -> None:
    closed: list[str] = []
    falls = [Contender("falls", failing, None, "eager", close=lambda: closed.append("falls"))]

    def unable() -> Check:
        raise ValueError("no result")

    late = Contender("late", lambda repeats: [0.01] * repeats, unable, "eager")
    case = session.compare("fit", [contender("ours", 0.0, "ours"), contender("wrong", 1.0), *falls, late], 2, single=True)
    assert case.rows[0].median == 0.01 and closed == ["falls"]
    assert all(row.median is None and row.slower is None and row.refused for row in case.rows[1:])
    assert "not today" in str(case.rows[2].refused) and "no result" in str(case.rows[3].refused)


def test_a_planted_wrong_spline_gets_no_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class Planted(Peer):
        name = "planted"

        def splines(self, job: SplineJob, session: Session) -> Iterator[Contender]:
            from flowkit.bench.splines import reference

            yield job.contender("right", "eager", lambda x, params: reference(x, params, job.bins, job.bound), session)
            yield job.contender("wrong", "eager", lambda x, params: reference(x, params.roll(1, -1), job.bins, job.bound), session)

    monkeypatch.setattr("flowkit.bench.peers.peer.PEERS", {"planted": PEERS.pop("planted")})
    report = run("ops", Setting(device="cpu", threads=1, quick=True, op="rational_quadratic_spline", rounds=1))
    rows = [{row.name: row for row in case.rows} for case in report.cases]
    rows = [found for found in rows if "wrong" in found]
    assert rows
    for found in rows:
        assert found["right"].median and found["wrong"].median is None and "differs from ours" in str(found["wrong"].refused)


@pytest.mark.parametrize("job", ["step", "log_prob", "sample"])
def test_a_flow_with_another_weight_is_found_out(job: str, session: Session) -> None:
    spec = FlowSpec(features=4, layers=2, hidden=(8, 8), bins=4)
    data, twin, flow = Data.normal(4, 32, 32, "cpu"), make_flow(spec), make_flow(spec)

    def checked() -> Check:
        model = TorchModel("x", "eager", flow, flow.log_prob, lambda count: flow.sample((count,)), flow.to_data, flow.to_latent, twin, session)
        check = model.contender(job, data).check
        assert check is not None
        return check()

    assert checked().agrees
    with torch.no_grad():
        next(parameter for parameter in flow.parameters() if parameter.dim() == 2).mul_(1.5)
    assert not checked().agrees


def test_timing_a_step_leaves_the_next_job_the_first_weights(session: Session) -> None:
    flow = make_flow(FlowSpec(features=4, layers=2, hidden=(8, 8), bins=4))
    model = TorchModel("x", "ours", flow, flow.log_prob, lambda count: flow.sample((count,)), flow.to_data, flow.to_latent, make_flow(FlowSpec()), session)
    data = Data.normal(4, 32, 32, "cpu")
    before = flow.log_prob(data.x)
    model.timer("step", data)(3)
    assert not torch.equal(flow.log_prob(data.x), before)
    assert torch.equal(model.values("log_prob", data)["log_prob"], before)


def test_parameters_for_zuko() -> None:
    """zuko's own formula gives the bins and slopes that ours has."""
    raw = torch.randn(50, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    given, limit = for_zuko(raw, 8, 1e-3), math.log(1e-3)
    widths, _, slopes = given.split([8, 8, 7], dim=-1)
    shares = torch.softmax(widths / (1 + abs(2 * widths / limit)), dim=-1)
    torch.testing.assert_close(shares, 1e-3 + (1 - 8e-3) * torch.softmax(raw[:, :8], dim=-1))
    torch.testing.assert_close(torch.exp(slopes / (1 + abs(slopes / limit))), 1e-3 + torch.nn.functional.softplus(raw[:, 16:]))


def test_weights_for_flowjax_keep_their_places() -> None:
    """Inner slopes keep their rows, those at the ends are 1 whatever the input, and a reversed layer is turned around."""
    spec = FlowSpec("autoregressive", features=3, layers=2, hidden=(4,), bins=2)
    flow = make_flow(spec)
    first, second = layers_of(flow)
    made = flowjax_weights(flow, spec)
    assert {name: array.shape for name, array in made.items()} == {"w0": (2, 4, 3), "b0": (2, 4), "w1": (2, 21, 4), "b1": (2, 21)}
    own = math.log(math.expm1(1 - 1e-3))
    ours, theirs = linears_of(first)[1].bias.detach().reshape(3, 5), torch.from_numpy(made["b1"][0]).reshape(3, 7)
    torch.testing.assert_close(theirs[:, :4], ours[:, :4])
    torch.testing.assert_close(theirs[:, 5] + own, ours[:, 4])
    assert (theirs[:, [4, 6]] == 0).all() and (made["w1"][0].reshape(3, 7, 4)[:, [4, 6]] == 0).all()
    torch.testing.assert_close(torch.from_numpy(made["w0"][1]).flip(1), linears_of(second)[0].weight.detach())


def test_messages_between_processes() -> None:
    stream = io.BytesIO()
    send(stream, {"do": "x", "size": 2}, {"a": np.arange(3.0)})
    send(stream, {"do": "y"})
    stream.seek(0)
    (head, arrays), second = receive(stream) or ({}, {}), receive(stream)
    assert head == {"do": "x", "size": 2} and arrays["a"].tolist() == [0, 1, 2] and second == ({"do": "y"}, {}) and receive(stream) is None
