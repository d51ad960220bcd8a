"""The benchmarks' terms are equal for all: one optimiser, a floor without a line of ours, turns within a budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import flowkit
from flowkit.bench import Setting, run
from flowkit.bench.flow_models import Data, floor
from flowkit.bench.models import Conditioners, FlowSpec, make_flow
from flowkit.bench.peers import PEERS
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob
from flowkit.bench.timing import BUDGET, LEAST, race

QUICK = Setting(device="cpu", threads=1, quick=True, rounds=1)
SMALL = FlowSpec(features=4, layers=2, hidden=(8, 8), bins=4)


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(QUICK)
    yield made
    made.close()


def packages_called(call: Callable[[], Any]) -> set[str]:
    """The packages of flowkit a call enters."""
    root, seen = Path(flowkit.__file__).parent, set()

    def watch(frame: Any, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root):
            seen.add(path.relative_to(root).parts[0])

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.parametrize("kind", ["coupling", "autoregressive"])
def test_the_floor_is_plain_torch(kind: Any, session: Session) -> None:
    """K2: whatever our networks and kernels become, the conditioner networks alone run torch's own layers, and no line of flowkit but the bench's."""
    spec = FlowSpec(kind, features=4, layers=2, hidden=(8, 8), bins=4)
    assert {type(part) for part in Conditioners(spec).modules()} == {Conditioners, nn.ModuleList, nn.Sequential, nn.Linear, nn.ReLU}
    data, flow = Data.normal(4, 16, 16, "cpu"), make_flow(spec)
    for job in ("step", "log_prob", "sample"):
        timer = floor(spec, session, job, data).timer
        assert packages_called(partial(timer, 2)) == {"bench"}
    assert {"bijectors", "core"} <= packages_called(lambda: flow.log_prob(data.x))  # or the watch sees nothing


@pytest.mark.parametrize("suite", ["density", "fit"])
def test_everyone_in_torch_has_the_same_adam(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """K2, K7: peers, floor and our own fit; else a ratio would be the optimiser's."""
    monkeypatch.setattr(PEERS["flowjax"], "missing", lambda session: "left out")
    seen, real = [], torch.optim.Adam.__init__

    def noted(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        seen.append(dict(self.defaults))

    monkeypatch.setattr(torch.optim.Adam, "__init__", noted)
    run(suite, QUICK)
    assert len(seen) >= 2 and all(options == seen[0] for options in seen)
    assert seen[0]["fused"] and not seen[0]["weight_decay"]


def ticking(seconds: float, calls: list[int]) -> Callable[[int], list[float]]:
    """A clock by which a call takes so long; it writes down how many calls it is asked for."""

    def take(repeats: int) -> list[float]:
        calls.append(repeats)
        return [seconds] * repeats

    return take


def test_rounds_end_with_the_budget_but_not_before_the_fifth() -> None:
    slow: list[int] = []
    assert len(race({"slow": ticking(BUDGET, slow)}, 15).idle) == LEAST == 5
    assert slow == [1] * 6  # a warm-up, and a call a round
    middling: list[int] = []
    assert len(race({"middling": ticking(BUDGET / 8, middling)}, 15).idle) == 8
    assert len(race({"slow": ticking(BUDGET, [])}, 2).idle) == 2


def test_a_slow_one_that_was_called_before_is_not_warmed_up_again() -> None:
    slow: list[int] = []
    quick: list[int] = []
    found = race({"slow": ticking(9.0, slow), "quick": ticking(0.01, quick)}, 15, warm={"slow": 9.0})
    assert slow == [1] * 5 and quick == [1] * 4 + [3] * 5
    assert [len(times) for times in found.times.values()] == [5, 5]


def test_the_compiled_peer_also_comes_in_a_form_whose_gradients_are_right() -> None:
    """torch 2.13's CPU compiler gets the gradients of zuko's spline wrong by default; with small fusions it does not."""
    pytest.importorskip("zuko")
    session = Session(Setting(device="cpu", threads=1))
    job = SplineJob(torch.randn(4, 2), torch.randn(4, 2, 23), 8, 3.0, backward=True)
    found = {contender.name: contender.group for contender in PEERS["zuko"].splines(job, session)}
    assert found == {"zuko": "eager", "zuko, torch.compile": "compiled", "zuko, torch.compile, small fusions": "compiled"}


@pytest.mark.slow
def test_the_compiled_peer_agrees() -> None:
    pytest.importorskip("zuko")
    session = Session(Setting(device="cpu", threads=2))
    generator = torch.Generator().manual_seed(0)
    x, params = 2 * torch.randn(256, 4, generator=generator), torch.randn(256, 4, 23, generator=generator)
    for contender in PEERS["zuko"].splines(SplineJob(x, params, 8, 3.0, backward=True), session):
        if contender.name != "zuko, torch.compile":
            assert contender.check is not None and contender.check().agrees, contender.name
