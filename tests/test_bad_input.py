"""Bad input: one clear line, exit code 2, nothing half-written (spine-F8)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from flowkit.cli import main

GOOD = {
    "name": "tiny",
    "seed": 0,
    "data": {"name": "two_moons", "train_size": 200, "validation_size": 50, "test_size": 50},
    "flow": {"name": "neural_spline_flow", "layers": 1, "hidden": [8], "bins": 4},
    "training": {"max_epochs": 1, "batch_size": 64},
    "evaluation": {"samples": 100},
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"/" for path in sorted(folder.rglob("*"))}


def config(folder: Path, file: str = "config.yaml", **changes: object) -> str:
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    (folder / file).write_text(yaml.safe_dump(content))
    return str(folder / file)


def flow(**changes: object) -> dict:
    return {"flow": GOOD["flow"] | changes}


def training(**changes: object) -> dict:
    return {"training": GOOD["training"] | changes}


def table(folder: Path, values: object, name: str = "table.csv", header: str = "a,b") -> dict:
    rows = "\n".join(",".join(map(str, row)) for row in values)  # type: ignore[attr-defined]
    (folder / name).write_text(f"{header}\n{rows}\n" if header else rows)
    return {"data": {"name": "file", "path": str(folder / name)}}


def noise(rows: int, columns: int = 2) -> list[list[float]]:
    return np.random.default_rng(0).normal(size=(rows, columns)).round(3).tolist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main(["fit", config(folder, training=GOOD["training"] | {"run_dir": str(folder / "run"), "progress": False})]) == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def check(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], says: str) -> None:
    """The command must refuse in one line that holds ``says``, and leave the folder as it is."""
    capsys.readouterr()
    before = tree(folder)
    code = main(words)
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("flowkit: "), err
    assert says.lower() in err.lower(), err
    assert "Traceback" not in err and out == ""
    assert tree(folder) == before


CONFIGS: dict[str, tuple[dict, str]] = {
    "unknown key": ({"trainig": {}}, "training"),
    "no flow": ({"flow": None}, "flow"),
    "neither data nor target": ({"data": None}, "data"),
    "data and target": ({"target": {"name": "x"}}, "target"),
    "data not a mapping": ({"data": 3}, "data"),
    "unknown flow": ({"flow": {"name": "neural_spline_flo"}}, "neural_spline_flow"),
    "flow names a module": ({"flow": {"name": "os.system", "command": "true"}}, "os.system"),
    "flow names a class": ({"flow": {"name": "flowkit.flows.RealNVP"}}, "flow"),
    "unknown argument": (flow(bin=8), "bins"),
    "wrong type": (flow(layers="four"), "int"),
    "wrong type in list": (flow(hidden=[8, "x"]), "int"),
    "scalar for list": (flow(hidden=8), "list"),
    "negative layers": (flow(layers=-1), "layers"),
    "zero width": (flow(hidden=[0]), ">= 1"),
    "one bin": (flow(bins=1), "bins"),
    "negative bound": (flow(bound=-2.0), "bound"),
    "too many passes": (flow(autoregressive=True, passes=9), "passes"),
    "unknown activation": (flow(activation="rellu"), "relu"),
    "negative features": (flow(features=-2), "features"),
    "other features than the data": (flow(features=3), "(3,)"),
    "support of another size": (flow(support={"name": "box", "low": -9, "high": 9, "dim": 3}), "support"),
    "support turned around": (flow(support={"name": "box", "low": 9, "high": -9, "dim": 2}), "low < high"),
    "unknown domain": (flow(support={"name": "boxx"}), "box"),
    "data outside the support": (flow(support={"name": "box", "low": 0, "high": 0.1, "dim": 2}), "support"),
    "embed names a module": (flow(embed={"name": "os.system"}, context_features=2), "os.system"),
    "context wanted, data have none": (flow(context_features=2), "context"),
    "context given, flow wants none": ({"data": GOOD["data"] | {"classes": True}, **flow(classes=0, context_features=0)}, "context"),
    "unknown data set": ({"data": {"name": "two_mons"}}, "two_moons"),
    "unknown data argument": ({"data": {"name": "two_moons", "nois": 1}}, "noise"),
    "negative size": ({"data": {"name": "two_moons", "train_size": -5}}, "train_size"),
    "unknown objective": ({"objective": {"name": "maximum_likelyhood"}}, "maximum_likelihood"),
    "unknown training keyword": (training(max_epoch=1), "max_epochs"),
    "zero batch": (training(batch_size=0), "batch_size"),
    "negative rate": (training(lr=-1.0), "lr"),
    "rate as text": (training(lr="fast"), "lr"),
    "unknown optimizer": (training(optimizer="adm"), "adam"),
    "unknown schedule": (training(schedule="cosin"), "cosine"),
    "unknown precision": (training(precision="fp16"), "bf16"),
    "unknown policy": (training(non_finite="ignore"), "skip"),
    "absent device": (training(device="cuda:7"), "cuda:7"),
    "negative seed": ({"seed": -1}, "seed"),
    "seed as text": ({"seed": "zero"}, "seed"),
    "unknown evaluation keyword": ({"evaluation": {"sample": 10}}, "samples"),
}


@pytest.mark.parametrize("case", list(CONFIGS))
def test_bad_config(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    changes, says = CONFIGS[case]
    check(["fit", config(tmp_path, **changes)], tmp_path, capsys, says)


TEXTS = {
    "empty": ("", "config"),
    "a list": ("- 1\n- 2\n", "mapping"),
    "not YAML": ("name: a\nflow: {name: [\n", "line"),
    "a tab": ("flow:\n\tname: x\n", "line"),
    "a key twice": ("name: a\nname: b\n", "name"),
    "code": ("name: a\nflow: !!python/object/apply:os.system ['true']\n", "line"),
    "binary": ("\x00\x01\x02", "config"),
}


@pytest.mark.parametrize("case", list(TEXTS))
def test_bad_file(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, says = TEXTS[case]
    (tmp_path / "config.yaml").write_text(text)
    check(["fit", str(tmp_path / "config.yaml")], tmp_path, capsys, says)


TABLES: dict[str, tuple[Callable[[Path], dict], str]] = {
    "missing": (lambda f: {"data": {"name": "file", "path": str(f / "none.csv")}}, "none.csv"),
    "empty file": (lambda f: table(f, [], header=""), "table.csv"),
    "header only": (lambda f: table(f, []), "row"),
    "one row": (lambda f: table(f, noise(1)), "row"),
    "NaN": (lambda f: table(f, [*noise(50), ["nan", 1.0]]), "nan"),
    "infinite": (lambda f: table(f, [*noise(50), ["inf", 1.0]]), "infinit"),
    "missing cell": (lambda f: table(f, [*noise(50), ["", 1.0]]), "table.csv"),
    "constant column": (lambda f: table(f, [[row[0], 1.0] for row in noise(50)]), "'b'"),
    "text column": (lambda f: table(f, [[row[0], "red"] for row in noise(50)]), "'b'"),
    "ragged": (lambda f: table(f, [*noise(50), [1.0, 2.0, 3.0]]), "table.csv"),
    "unknown ending": (lambda f: table(f, noise(50), name="table.xls"), ".xls"),
    "unknown column": (lambda f: {"data": table(f, noise(50))["data"] | {"columns": ["a", "c"]}}, "'c'"),
    "folder": (lambda f: {"data": {"name": "file", "path": str(f)}}, "file"),
}


@pytest.mark.parametrize("case", list(TABLES))
def test_bad_table(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, says = TABLES[case]
    check(["fit", config(tmp_path, **make(tmp_path))], tmp_path, capsys, says)


def test_pickled_and_truncated_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "cut.npz", x=np.zeros((50, 2)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:100])
    for name in ("objects.npy", "cut.npz"):
        check(["fit", config(tmp_path, data={"name": "file", "path": str(tmp_path / name)})], tmp_path, capsys, name)


def test_words(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = config(tmp_path)
    for words, says in (
        (["fti", path], "fit"),
        (["fit", path, "--flow.bin", "3"], "bins"),
        (["fit", path, "--flow.bins"], "value"),
        (["fit", path, "--flow.layers", "two"], "int"),
        (["fit", path, "--flow.hidden.7", "2"], "hidden"),
        (["fit", path, "--epochs", "2"], "--epochs"),
        (["fit", path, "--trainin.lr", "2"], "training"),
        (["fit", "none.yaml"], "none.yaml"),
        (["fit"], "config"),
        (["fit", "--resume", "none"], "none"),
        (["list", "bijector_s"], "bijectors"),
        (["sample", "none"], "none"),
        (["evaluate", "none"], "none"),
        (["report", "none"], "none"),
        (["--versio"], "--version"),
    ):
        check(words, tmp_path, capsys, says)


def test_bad_requests_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "three.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    (tmp_path / "nan.csv").write_text("a,b\n1,nan\n4,5\n")
    for words, says in (
        (["sample", str(run), "-n", "-3"], "-3"),
        (["sample", str(run), "-n", "many"], "many"),
        (["sample", str(run), "-o", "samples.xyzzy"], ".npz"),
        (["sample", str(run), "-o", "file/samples.npz"], "file"),
        (["sample", str(run), "-o", "samples.png"], "picture"),
        (["sample", str(run), "--context", "1"], "context"),
        (["sample", str(run), "--temperature", "-1"], "temperature"),
        (["evaluate", str(run), "--data", "three.csv"], "3"),
        (["evaluate", str(run), "--data", "nan.csv"], "nan"),
        (["evaluate", str(run), "--data", "none.csv"], "none.csv"),
        (["fit", config(tmp_path, "again.yaml", **training(run_dir=str(run)))], "already holds a run"),
        (["fit", config(tmp_path, "on_file.yaml", **training(run_dir=str(tmp_path / "file")))], "file"),
        (["fit", config(tmp_path, "other.yaml", **flow(bins=5)), "--resume", str(run)], "flow"),
        (["report", str(run), "-o", "file/report.html"], "file"),
    ):
        check(words, tmp_path, capsys, says)


def damage(run: Path, case: str) -> None:
    weights, description = run / "flow" / "model.safetensors", run / "flow" / "config.json"
    content, text = weights.read_bytes(), json.loads(description.read_text())
    if case == "truncated":
        weights.write_bytes(content[:-20])
    elif case == "bit flipped":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif case == "weights missing":
        weights.unlink()
    elif case == "foreign":
        weights.write_bytes(b"\x80\x04foreign")
    elif case == "names os.system":
        description.write_text(json.dumps(text | {"flow": {"name": "os.system", "command": "true"}}))
    elif case == "newer format":
        description.write_text(json.dumps(text | {"format": 99}))
    elif case == "not JSON":
        description.write_text("{")
    elif case == "description missing":
        description.unlink()


@pytest.mark.parametrize("command", ["sample", "evaluate", "report"])
@pytest.mark.parametrize(
    "case", ["truncated", "bit flipped", "weights missing", "foreign", "names os.system", "newer format", "not JSON", "description missing"]
)
def test_damaged_run(case: str, command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    damage(run, case)
    check([command, str(run)], tmp_path, capsys, "flow")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = config(tmp_path)
    os.chmod(tmp_path, 0o555)
    try:
        check(["fit", path], tmp_path, capsys, "written")
    finally:
        os.chmod(tmp_path, 0o755)


def test_damaged_checkpoints(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for state in (run / "checkpoints").glob("*/state.json"):
        state.write_text("{")
    capsys.readouterr()
    assert main(["fit", "--resume", str(run)]) == 2
    assert "every checkpoint" in capsys.readouterr().err
