"""The benchmarks: every suite runs, and writes what it found. Nothing here is timed."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from flowkit.bench import SUITES, Setting, bench, run
from flowkit.bench.markdown import markdown
from flowkit.bench.peers import PEERS, Peer
from flowkit.bench.report import Case, Report, Row
from flowkit.cli import main
from flowkit.core.errors import ConfigError
from flowkit.kernels import OPS

QUICK = Setting(device="cpu", threads=1, quick=True)


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
    # whole trajectories are timed by the suite ode, whole layers by those of flows
    assert timed == {name for name, op in OPS.items() if op.fused_cpu is not None and op.is_operator} - {"mlp_trajectory"}
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
