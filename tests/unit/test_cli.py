"""The command line, end to end on tiny runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import flowkit
from flowkit import cli
from flowkit.cli import main
from flowkit.experiment.yaml_file import read_yaml

CONFIG = """
name: tiny
seed: 1
data: {name: two_moons, train_size: 128, validation_size: 64, test_size: 64}
flow: {name: neural_spline_flow, layers: 1, hidden: [8, 8], bins: 4}
training: {max_steps: 6, batch_size: 64, lr: 1e-3, progress: false}
evaluation: {samples: 50, components: 2}
"""
IMAGES = """
name: pictures
data: digits
flow: {name: real_nvp, layers: 1, hidden: [8]}
training: {max_steps: 2, progress: false}
evaluation: {samples: 20, components: 1}
"""


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures() -> Iterator[None]:
    """Fewer pixels: drawing is most of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowkit.experiment._pictures.DPI", 30)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs, a table, and three finished runs."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "pictures.yaml").write_text(IMAGES)
    rows = np.random.default_rng(0).normal(size=(60, 3)) * [1.0, 20.0, 300.0] + [0.0, 5.0, 1000.0]
    np.savetxt(folder / "table.csv", rows, delimiter=",", header="a,b,c", comments="", fmt="%.6f")
    for name, words in {
        "run": ["tiny.yaml"],
        "image_run": ["pictures.yaml"],
        "table_run": ["tiny.yaml", "--data", "{name: file, path: %s}" % (folder / "table.csv")],
        "class_run": ["tiny.yaml", "--data.classes", "true"],
    }.items():
        assert main(["fit", str(folder / words[0]), *words[1:], "--training.run_dir", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line that a command with bad input leaves."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("flowkit: ") and "Traceback" not in said.err
    return said.err


# -- fit --------------------------------------------------------------------------------------------------------


def test_fit_leaves_a_whole_run(home: Path) -> None:
    run = home / "run"
    for name in ("config.yaml", "config.json", "units.json", "metrics.json", "metrics.csv", "samples.npz", "report.html", "flow", "checkpoints", "pictures"):
        assert (run / name).exists(), name
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["rows"] == 64 and metrics["steps"] == 6 and metrics["split"] == "test"
    paired = metrics["nll"] - metrics["baseline_nll"]
    assert metrics["difference"] == pytest.approx(paired) and metrics["difference_error"] > 0
    config = read_yaml(run / "config.yaml")
    assert config["flow"]["features"] == 2 and "run_dir" not in config["training"]


def test_fit_makes_a_new_folder_and_says_where_things_are(home: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fit", str(home / "tiny.yaml"), "--training.max_steps", "1", "--evaluation.baseline=false"]
    assert main(words) == 0 and main(words) == 0
    runs = sorted((elsewhere / "runs").iterdir())
    assert len(runs) == 2 and all(run.name.startswith("tiny-2") for run in runs)
    said = capsys.readouterr().out
    assert "test NLL" in said and "nats" in said
    for name in ("report.html", "flow", "samples.npz"):
        assert str(Path("runs") / runs[0].name / name) in said


def test_overrides_both_ways_reach_the_builder(home: Path, elsewhere: Path) -> None:
    changes = ["--flow.bins", "5", "--flow.hidden.0=6", "--training.lr=3e-4", "--seed", "7", "--training.run_dir", "made", "--training.max_steps=1"]
    assert main(["fit", *changes, str(home / "tiny.yaml"), "--evaluation.baseline", "false"]) == 0
    config = read_yaml(elsewhere / "made" / "config.yaml")
    assert config["flow"]["bins"] == 5 and config["flow"]["hidden"] == [6, 8] and config["seed"] == 7
    settings = json.loads((elsewhere / "made" / "config.json").read_text())
    assert settings["training"]["lr"] == 3e-4 and settings["training"]["seed"] == 7


def test_the_same_seed_gives_the_same_flow(home: Path) -> None:
    assert main(["fit", str(home / "run" / "config.yaml"), "--training.run_dir", "again"]) == 0
    first, second = flowkit.load(home / "run"), flowkit.load("again")
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    with np.load(home / "run" / "samples.npz") as a, np.load("again/samples.npz") as b:
        assert np.array_equal(a["x"], b["x"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--flow.bin", "3"], "flow.bin: unknown argument of NeuralSplineFlow. Nearest: 'bins'"),
        (["--flw.bins", "3"], "Nearest: 'flow'"),
        (["--training.lrr=3"], "training.lrr: no such key. Nearest: 'lr'"),
        (["--training.lr", "fast"], "training.lr: expected a number; got 'fast'"),
        (["--flow.bins"], "expected a value"),
        (["--flow.bins", "--flow.bound"], "expected a value"),
        (["--flow.hidden.4", "3"], "0 to 1"),
        (["--flow.bins", "[3"], "--flow.bins"),
        (["--resum", "x"], "Nearest: '--resume'"),
        (["--resume", "nowhere"], "does not exist"),
        (["--data.train_size", "0"], "train_size"),
        (["--training.max_steps", "-1"], "max_steps"),
        (["--training.optimizer", "adan"], "Nearest: 'adam'"),
        (["more.yaml"], "more.yaml"),
        (["--training.run_dir", "/proc/nothing/here"], "/proc"),
    ],
)
def test_fit_refuses(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in refused(capsys, ["fit", str(home / "tiny.yaml"), *words])


def test_fit_refuses_files(home: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.yaml" in refused(capsys, ["fit", "none.yaml"])
    Path("broken.yaml").write_text("name: a\nflow: {bins: 1\ndata: x\n")
    assert "broken.yaml, line 3" in refused(capsys, ["fit", "broken.yaml"])
    assert "expected a config" in refused(capsys, ["fit"])
    assert "already holds a run" in refused(capsys, ["fit", str(home / "tiny.yaml"), "--training.run_dir", str(home / "run")])
    assert refused(capsys, ["fit", str(elsewhere)])


def test_interrupt_and_resume(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.training.loop import Loop

    step = Loop._step

    def interrupted(self: Loop, group: object) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        step(self, group)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_step", interrupted)
    assert main(["fit", str(home / "tiny.yaml"), "--training.run_dir", "cut"]) == 130
    assert "flowkit fit --resume cut" in capsys.readouterr().err
    assert list(Path("cut/checkpoints").iterdir())
    assert "no trained flow yet" in refused(capsys, ["sample", "cut"])
    monkeypatch.setattr(Loop, "_step", step)
    assert "'flow' differs" in refused(capsys, ["fit", str(home / "tiny.yaml"), "--flow.bins", "9", "--resume", "cut"])
    assert "training" in refused(capsys, ["fit", "--training.lr", "9e-3", "--resume", "cut"])
    assert main(["fit", str(home / "tiny.yaml"), "--resume", "cut"]) == 0
    assert main(["fit", "--resume", "cut"]) == 0
    whole, resumed = flowkit.load(home / "run").state_dict(), flowkit.load("cut").state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


# -- sample -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".npz", ".csv"])
def test_samples_are_in_the_units_of_the_data(home: Path, ending: str) -> None:
    assert main(["sample", str(home / "table_run"), "-n", "40", "-o", f"drawn{ending}", "--seed", "3"]) == 0
    if ending == ".npz":
        with np.load("drawn.npz") as file:
            x, log_prob = file["x"], file["log_prob"]
    else:
        assert Path("drawn.csv").read_text().splitlines()[0] == "a,b,c,log_prob"
        table = np.loadtxt("drawn.csv", delimiter=",", skiprows=1)
        x, log_prob = table[:, :3], table[:, 3]
    assert x.shape == (40, 3) and abs(x[:, 2].mean() - 1000) < 300
    units = json.loads((home / "table_run" / "units.json").read_text())
    standard = (x - np.array(units["loc"])) / np.array(units["scale"])
    expected = flowkit.load(home / "table_run").log_prob(torch.tensor(standard, dtype=torch.float32)).detach().numpy() + units["log_det"]
    assert np.allclose(log_prob, expected, atol=1e-3)


def test_streaming_does_not_depend_on_n(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowkit.experiment.samples.NUMBERS_PER_CHUNK", 32)
    assert main(["sample", str(home / "run"), "-n", "100", "-o", "long.npz"]) == 0
    assert main(["sample", str(home / "run"), "-n", "16", "-o", "short.npz"]) == 0
    with np.load("long.npz") as long, np.load("short.npz") as short:
        assert long["x"].shape == (100, 2) and np.array_equal(long["x"][:16], short["x"])
    assert [path.name for path in sorted(Path.cwd().iterdir())] == ["long.npz", "short.npz"]


def test_parquet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import pyarrow.parquet
    except ImportError:
        assert "needs pyarrow" in refused(capsys, ["sample", str(home / "run"), "-n", "5", "-o", "drawn.parquet"])
        return
    assert main(["sample", str(home / "table_run"), "-n", "5", "-o", "drawn.parquet"]) == 0
    assert pyarrow.parquet.read_table("drawn.parquet").column_names == ["a", "b", "c", "log_prob"]


def test_pictures(home: Path) -> None:
    from PIL import Image

    assert main(["sample", str(home / "image_run"), "-n", "10", "-o", "grid.png"]) == 0
    assert main(["sample", str(home / "image_run"), "-n", "3", "-o", "drawn.npz"]) == 0
    image = Image.open("grid.png")
    assert image.size[0] % 35 == 0 and image.size[1] % 26 == 0  # 4 x 3 pictures of 8 x 8, a line apart
    with np.load("drawn.npz") as file:
        assert file["x"].shape == (3, 1, 8, 8)


def test_conditional_samples(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(home / "class_run"), "-n", "8", "--context", "1", "-o", "drawn.csv"]) == 0
    table = np.loadtxt("drawn.csv", delimiter=",", skiprows=1)
    assert table.shape == (8, 4) and (table[:, 2] == 1).all()
    with np.load(home / "class_run" / "samples.npz") as file:
        assert set(file["context"]) == {0, 1}
    assert "conditional" in refused(capsys, ["sample", str(home / "class_run"), "-n", "8"])
    assert "a label" in refused(capsys, ["sample", str(home / "class_run"), "-n", "8", "--context", "[0.5]"])
    assert "takes no context" in refused(capsys, ["sample", str(home / "run"), "-n", "8", "--context", "1"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "drawn.xyz"], ".xyz is for structures of a molecule"),
        (["-o", "drawn.doc"], ".npz, .csv, .parquet"),
        (["-o", "drawn"], "nameless"),
        (["-o", "grid.png"], "pictures"),
        (["-o", "none/drawn.npz"], "does not exist"),
        (["-n", "0"], "n >= 1"),
        (["-n", "many"], "expected int; got many"),
        (["--device", "tpu"], "tpu"),
        (["--ouput", "x"], "Nearest: '--output'"),
    ],
)
def test_sample_refuses(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in refused(capsys, ["sample", str(home / "run"), *words])


# -- evaluate, report -------------------------------------------------------------------------------------------


def test_evaluate_on_the_test_split_agrees_with_fit(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(home / "run")]) == 0
    said = capsys.readouterr()
    metrics = json.loads(said.out)
    assert said.out.count("\n") == 1 and "NLL (nats)" in said.err
    fitted = json.loads((home / "run" / "metrics.json").read_text())
    assert {key: metrics[key] for key in ("nll", "nll_error", "difference", "coverage_p_value")} == pytest.approx(
        {key: fitted[key] for key in ("nll", "nll_error", "difference", "coverage_p_value")}
    )


def test_evaluate_a_file_in_raw_units(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(home / "table_run"), "--data", str(home / "table.csv")]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["rows"] == 60 and metrics["nll_raw"] > metrics["nll"] + 5
    swapped = np.loadtxt(home / "table.csv", delimiter=",", skiprows=1)[:, [2, 0, 1]]
    np.savetxt("swapped.csv", swapped, delimiter=",", header="c,a,b", comments="")
    assert main(["evaluate", str(home / "table_run"), "--data", "swapped.csv"]) == 0
    assert json.loads(capsys.readouterr().out)["nll"] == pytest.approx(metrics["nll"], rel=1e-4)


def test_evaluate_arrays(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("labelled.npz", x=np.zeros((4, 2)), context=np.array([0, 1, 1, 0]))
    assert main(["evaluate", str(home / "class_run"), "--data", "labelled.npz"]) == 0
    np.save("images.npy", np.full((3, 1, 8, 8), 0.25))
    assert main(["evaluate", str(home / "image_run"), "--data", "images.npy"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == 3
    np.save("one.npy", np.zeros((4, 2)))
    assert "context" in refused(capsys, ["evaluate", str(home / "class_run"), "--data", "one.npy"])
    assert "expected 2 columns" in refused(capsys, ["evaluate", str(home / "run"), "--data", str(home / "table.csv")])
    assert "no such file" in refused(capsys, ["evaluate", str(home / "run"), "--data", "none.csv"])
    assert "--data" in refused(capsys, ["evaluate", str(home / "run" / "flow")])


def test_diagnose(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(home / "run"), "-n", "40"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["events"] == 40 and found["round_trip"] < 1e-4 and found["first_non_finite"] is None
    assert [layer["bins"] for layer in found["layers"] if "Spline" in layer["name"]].count(4) >= 2
    assert "condition" in said.err and "~Coupling[RationalQuadraticSpline]" in said.err
    assert "nowhere" in refused(capsys, ["diagnose", "nowhere"])
    assert "no such file" in refused(capsys, ["diagnose", str(home / "run"), "--data", "absent.csv"])


def test_report(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(home / "run"), "-o", "page.html"]) == 0
    assert capsys.readouterr().out == "page.html\n" and Path("page.html").read_text().startswith("<!doctype html>")
    assert "no run" in refused(capsys, ["report", str(home / "run" / "flow")])
    assert "nowhere" in refused(capsys, ["report", "nowhere"])


# -- list, and the program itself -------------------------------------------------------------------------------


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "bijectors" in capsys.readouterr().out
    assert main(["list", "flows"]) == 0
    lines = capsys.readouterr().out.splitlines()
    spline = next(line for line in lines if line.startswith("neural_spline_flow (nsf)"))
    assert spline.endswith("Durkan et al. 2019, arXiv:1906.04032")
    assert len({line.index("  ", 1) for line in lines}) >= 1 and all(line == line.rstrip() for line in lines)
    assert "Nearest: 'flows'" in refused(capsys, ["list", "flws"])


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["sample", "--help"], ["evaluate", "-h"], ["report", "-h"], ["list", "-h"], []])
def test_help(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "usage: flowkit" in said
    if words == ["fit", "--help"]:
        assert "--training.lr" in said and "float, default: 0.001" in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flowkit {flowkit.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [(["fti"], "Nearest: 'fit'"), (["--versoin"], "Nearest: '--version'"), (["lists", "x"], "no command 'lists'. Nearest: 'list'"), (["sample"], "run")],
)
def test_unknown_words(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in refused(capsys, words)


def test_faults_of_our_own_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: object, changes: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(cli._COMMANDS, "list", broken)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "flowkit", "list", "objectives"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "maximum_likelihood" in done.stdout
