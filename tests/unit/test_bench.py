"""The benchmarks: who disagrees gets no time, the numbers are what they say, and every suite runs. Nothing here is timed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowkit.bench import SUITES, Setting, bench, run
from flowkit.bench.cells import of_case
from flowkit.bench.contender import Check, Contender
from flowkit.bench.flow_models import Data, TorchModel, distance
from flowkit.bench.jax_side.wire import receive, send
from flowkit.bench.markdown import markdown
from flowkit.bench.models import FlowSpec, flowjax_weights, layers_of, linears_of, make_flow
from flowkit.bench.peers import PEERS, Peer
from flowkit.bench.report import Case, Report, Row
from flowkit.bench.session import Session
from flowkit.bench.splines import SplineJob, for_zuko
from flowkit.bench.suites.growth import curve
from flowkit.bench.summary import best, overall_slope, quartiles, ratio, slopes
from flowkit.bench.timing import Race, kept, race
from flowkit.cli import main
from flowkit.core.errors import ConfigError
from flowkit.kernels import OPS

QUICK = Setting(device="cpu", threads=1, quick=True)


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(QUICK)
    yield made
    made.close()


def ticking(seconds: list[float]) -> Any:
    """A clock that reads these times, one a call."""
    left = iter(seconds)
    return lambda repeats: [next(left) for _ in range(repeats)]


# -- numbers ----------------------------------------------------------------------------------------------------


def test_statistics() -> None:
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)
    assert ratio([2.0, 8.0, 30.0], [1.0, 2.0, 3.0]) == 4.0  # the median of 2, 4, 10; not 30 / 3 nor the ratio of medians by chance
    assert ratio([2.0, 9.0, 10.0], [1.0, 9.0, 10.0]) == 1.0
    assert best([[3.0, 1.0], [2.0, 5.0]]) == [2.0, 1.0]


def test_slopes() -> None:
    x = [1.0, 10.0, 100.0]
    assert slopes(x, [2.0, 20.0, 2000.0]) == pytest.approx([1.0, 2.0])
    assert overall_slope(x, [3.0, 300.0, 30000.0]) == pytest.approx(2.0)
    found = curve("batch", x, {"step": [1.0, 10.0, 1000.0]}, {"step": [5.0, 50.0, 500.0]})
    assert found.slopes["step"] == [None, pytest.approx(1.0), pytest.approx(2.0)]
    assert found.notes == ["Steeper than linear: step, batch 10 to 100: 2.00."]


def test_rounds_with_a_busy_machine_are_left_out() -> None:
    assert kept([1.0, 0.2, 0.9, 0.95]) == [0, 2, 3]
    assert kept([0.5, 0.2, 0.9, 0.3]) == [0, 2]  # fewer than half were idle: the idlest half
    assert kept([0.0]) == [0]


def test_everyone_takes_turns_in_rotated_order() -> None:
    said: list[str] = []

    def clock(name: str) -> Any:
        return lambda repeats: said.append(name) or [1.0] * repeats

    found = race({name: clock(name) for name in "abc"}, 3, warmups=1)
    assert said == [*"aabbcc", *"abc", *"bca", *"cab"]
    assert all(len(times) == 3 for times in found.times.values())


def test_distance() -> None:
    assert distance(torch.tensor([1.0, 2.0]), [1.0, 4.0]) == 0.5
    assert distance([math.nan], [1.0]) == math.inf == distance([1.0, 2.0], [1.0])
    off = np.zeros(20_000)
    off[:2] = 1.0  # two entries in twenty thousand may lie on a knot, three may not
    assert distance(off, np.zeros(20_000), 1e-4) == 0.0
    off[2] = 1.0
    assert distance(off, np.zeros(20_000), 1e-4) > 1e-3
    assert not Check(math.nan, 1.0, "nothing").agrees


def test_ratios_are_of_the_same_round() -> None:
    case = Case("job", [Row("ours", "ours"), Row("slow", "eager"), Row("fast", "jit"), Row("copy", "floor")])
    case.record(Race({"ours": [1.0, 2.0, 50.0], "slow": [4.0, 8.0, 100.0], "fast": [2.0, 6.0, 5.0], "copy": [0.1, 0.1, 0.1]}, idle=[1, 1, 0.1], kept=[0, 1]))
    ours, slow, fast, copy = case.rows
    assert (case.rounds, case.kept, case.idle) == (3, 2, 1)
    assert ours.median == 1.5 and ours.times == [1.0, 2.0]
    assert (ours.slower, slow.slower, fast.slower) == (1.0, 4.0, 2.5)
    assert ours.gain == {"eager": 4.0, "jit": 2.5, "peers": 2.5} and not fast.gain and copy.median == 0.1


# -- verification -----------------------------------------------------------------------------------------------


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


# -- suites -----------------------------------------------------------------------------------------------------


@pytest.fixture
def without_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """flowjax is left out: its process takes seconds to start and to compile."""
    monkeypatch.setattr(PEERS["flowjax"], "missing", lambda session: "left out")


@pytest.mark.usefixtures("without_jax")
@pytest.mark.parametrize("name", ["density", "sampling", "fit", "growth"])
def test_suites(name: str) -> None:
    report = run(name, QUICK, command=f"flowkit bench --suite {name}")
    assert report.cases or report.curves
    for case in report.cases:
        assert case.rows[0].group == "ours"
        assert [row.name for row in case.rows if row.refused] == [], [row.refused for row in case.rows]
        assert all(row.median and (row.group == "floor" or row.error is not None) for row in case.rows)
        assert all(row.parameters == case.rows[0].parameters for row in case.rows)
    for found in report.curves:
        assert set(found.overall) == {"log_prob", "step", "log_prob, memory", "step, memory"}
    absent = {library for library in ("FrEIA", "normflows") if find_spec(library) is None}
    assert set(report.skipped) - absent == ({"flowjax"} if report.cases else set())
    page = markdown(report)
    assert report.circumstances["date"] in page and all(part.title in page for part in [*report.cases, *report.curves])


@pytest.mark.usefixtures("without_jax")
def test_every_fused_op_is_timed() -> None:
    report = run("ops", Setting(device="cpu", threads=1, quick=True, rounds=1))
    timed = {case.title.split(",")[0] for case in report.cases}
    # whole trajectories are timed by the suite ode
    assert timed == {name for name, op in OPS.items() if op.fused_cpu is not None} - {"mlp_trajectory"}
    for case in report.cases:
        assert not [row.refused for row in case.rows if row.refused]
        assert case.rows[-1].group == "floor"


@pytest.mark.slow
def test_flowjax_agrees() -> None:
    pytest.importorskip("flowjax")
    for name, cases in (("ops", 2), ("density", 6), ("sampling", 1)):
        op = "rational_quadratic_spline" if name == "ops" else None
        report = run(name, Setting(device="cpu", threads=1, quick=True, rounds=1, op=op))
        rows = [row for case in report.cases for row in case.rows if row.group == "jit"]
        assert len(rows) == cases and not [row.refused for row in rows if row.refused]


# -- what is written --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_jax")
def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--suite", "sampling", "--quick", "--device", "cpu", "--threads", "1", "--rounds", "1", "--out", str(tmp_path / "results")]
    assert main([*words, "--json", str(tmp_path / "own.json"), "--plot", str(tmp_path / "own.png")]) == 0
    said = capsys.readouterr().out
    assert "conditioner" in said and "faster by" in said and "not run: flowjax: left out" in said
    folder = tmp_path / "results"
    assert sorted(path.name for path in folder.iterdir()) == ["sampling.json", "sampling.md", "sampling.png"]
    assert (tmp_path / "own.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads((folder / "sampling.json").read_text())
    assert found == json.loads((tmp_path / "own.json").read_text())
    assert set(found) == {"format", "suite", "about", "circumstances", "cases", "curves", "skipped"}
    assert {"flowkit", "versions", "processor", "device", "threads", "command", "date"} <= set(found["circumstances"])
    assert found["circumstances"]["command"].startswith("flowkit bench --suite sampling --threads 1 --rounds 1 --device cpu --out")
    row = found["cases"][0]["rows"][0]
    assert set(row) == set(Row.__dataclass_fields__) and len(row["times"]) == 1 and row["facts"]["round_trip"] < 1e-3
    page = (folder / "sampling.md").read_text()
    assert "![times](sampling.png)" in page and "Not run: flowjax: left out." in page


def test_numbers_that_json_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("ops", "", {}, [Case("job", [Row("x", "eager", error=math.inf)])])
    monkeypatch.setattr("flowkit.bench.command.run", lambda *args, **keywords: report)
    bench("ops", QUICK, json_path=str(tmp_path / "x.json"))
    assert json.loads((tmp_path / "x.json").read_text())["cases"][0]["rows"][0]["error"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "densty"], "Nearest: 'density'"),
        (["--op", "rational_quadratic_splin"], "Nearest: 'rational_quadratic_spline'"),
        (["--suite", "fit", "--op", "affine"], "both"),
        (["--device", "gpu"], "auto, cpu, cuda"),
        (["--rounds", "0"], "rounds >= 1"),
        (["--threads", "none"], "threads"),
        (["--json", "nowhere/at/all.json"], "nowhere"),
        (["--quick", "--plot", "picture.xyz"], ".png, .pdf, .svg"),
        (["--quick", "--out", "/dev/null/tables"], "folder"),
        (["--suit", "ops"], "Nearest: '--suite'"),
    ],
)
def test_errors(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and error.count("\n") == 0 and "Traceback" not in error


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees none"):
        Setting(device="cuda")
    assert Setting().device == "cpu"


def test_a_peer_that_is_not_installed_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(Peer):
        name, packages = "absent", ("a_package_that_nobody_has",)

    monkeypatch.setattr("flowkit.bench.peers.peer.PEERS", {"absent": PEERS.pop("absent")})
    report = run("sampling", QUICK)
    assert list(report.skipped) == ["absent"] and "not installed" in report.skipped["absent"]


def test_threads_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(SUITES["growth"], "curves", lambda session: seen.append(torch.get_num_threads()) or iter(()))
    run("growth", Setting(device="cpu", threads=before + 1))
    assert seen == [before + 1] and torch.get_num_threads() == before
