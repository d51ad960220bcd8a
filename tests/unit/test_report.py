"""The report: one file, complete in itself, safe against what users call things."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import flowkit
from flowkit.core.errors import CheckpointError, ConfigError
from flowkit.core.target import Target
from flowkit.evaluation import bits_per_dim
from flowkit.experiment._html import card, code, page, table, yaml_code
from flowkit.experiment._meanings import rows_of, text_table
from flowkit.experiment._numbers import duration, p_value, rounded, with_error
from flowkit.experiment._pictures import curves
from flowkit.experiment.baseline import gaussian_mixture
from flowkit.experiment.config import Config, Evaluation, check_config
from flowkit.experiment.evaluate import measure_target
from flowkit.experiment.record import read_run
from flowkit.experiment.report import write_report
from flowkit.experiment.run import start

EVIL = "<script>alert('x')</script>&\"quote\""
FLOW = {"name": "real_nvp", "layers": 1, "hidden": [8]}
SHORT = {"max_steps": 8, "batch_size": 16, "progress": False}


class Reader(HTMLParser):
    """Collects tags and attributes, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(path: Path) -> tuple[str, Reader]:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return text, reader


def config(**changes: object) -> Config:
    tree = {"name": "tiny", "data": {"name": "two_moons", "train_size": 64, "validation_size": 32, "test_size": 32}, "flow": FLOW}
    return check_config({**tree, "training": SHORT, "evaluation": {"samples": 16, "components": 2}, **changes}, "test")


def ran(root: Path, **changes: object) -> Path:
    outcome = start(config(**changes), root=root)
    assert outcome is not None
    return outcome.folder


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures() -> Iterator[None]:
    """Fewer pixels: drawing is most of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowkit.experiment._pictures.DPI", 30)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("runs"))


def test_everything_is_inline(run: Path) -> None:
    text, reader = read(run / "report.html")
    pictures = [value for tag, name, value in reader.attributes if name in ("src", "href", "srcset", "data", "action", "poster")]
    assert len(pictures) == 4 and all(value.startswith("data:image/png;base64,") for value in pictures)
    tags = {tag for tag, _, _ in reader.attributes}
    assert not tags & {"script", "link", "iframe", "object", "form"} and "<script" not in text
    assert not re.search(r"url\(|@import|https?://", text)
    assert all(value for tag, name, value in reader.attributes if tag == "img" and name == "alt")
    assert {path.name for path in (run / "pictures").iterdir()} == {"samples.png", "training.png", "latents.png", "coverage.png"}


def test_it_says_what_was_run_and_how_to_repeat_it(run: Path) -> None:
    text, _ = read(run / "report.html")
    for words in ("Real nvp", "Test NLL", "Gaussian mixture", "Parameters", "Samples against data", "Is it calibrated?", "RealNVP: event (2,)"):
        assert words in text, words
    assert f"flowkit fit {run}/config.yaml" in text and 'class="key">hidden</span>: [8]' in text


def test_user_text_is_escaped(tmp_path: Path) -> None:
    table_path = tmp_path / f"{EVIL.replace('/', '')}.csv"
    rows = np.random.default_rng(0).normal(size=(40, 2))
    header = "<b>a</b>,$x_1 & y$"
    np.savetxt(table_path, rows, delimiter=",", header=header, comments="")
    folder = ran(tmp_path / "runs", data={"name": "file", "path": str(table_path)})
    text, _ = read(folder / "report.html")
    assert "<script" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize("made", [page(EVIL, []), card(EVIL, EVIL, EVIL, EVIL, EVIL), table([EVIL] * 4, [[EVIL] * 4]), code(EVIL), yaml_code(f"{EVIL}: 1")])
def test_pieces_escape(made: str) -> None:
    assert "<script" not in made


def test_without_its_data_the_report_says_so(tmp_path: Path) -> None:
    table_path = tmp_path / "table.csv"
    np.savetxt(table_path, np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    folder = ran(tmp_path / "runs", data={"name": "file", "path": str(table_path)})
    table_path.unlink()
    write_report(folder)
    text, _ = read(folder / "report.html")
    assert "not at hand" in text and "Is it calibrated?" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "two_moons", "classes": True, "train_size": 64, "validation_size": 32, "test_size": 32}},
        {"data": {"name": "digits"}},
        {"data": {"name": "sklearn_table", "dataset": "wine"}},
        {"flow": {"name": "flow", "base": {"name": "student_t", "shape": [2]}, "bijector": {"name": "affine", "shape": [2]}}},
    ],
    ids=["classes", "images", "table", "other_base"],
)
def test_every_kind_of_run_has_a_report(tmp_path: Path, changes: dict[str, object]) -> None:
    text, _ = read(ran(tmp_path, **changes) / "report.html")
    assert "Samples against data" in text and "data:image/png" in text


def test_target_metrics_of_the_exact_flow() -> None:
    flow = flowkit.Flow(flowkit.distributions.StandardNormal((2,)), flowkit.bijectors.Affine(shape=(2,)))
    target = flowkit.distributions.StandardNormal((2,))
    options = config().evaluation
    metrics = measure_target(flow, target, Evaluation(**options))
    assert metrics["ess"] == pytest.approx(1.0) and metrics["log_z"] == pytest.approx(0.0, abs=1e-6) and metrics["rows"] == 16


PHI4 = {"data": None, "target": {"name": "phi4", "size": 4, "m2": 0.5, "lam": 1.0}, "objective": {"name": "reverse_kl"}}


@pytest.mark.parametrize(
    ("changes", "words", "pictures"),
    [
        ({**PHI4, "flow": {"name": "lattice_flow", "shape": [4, 4], "layers": 1, "hidden": [4]}}, "Fields drawn from the flow", ["energies.png"]),
        (
            {"data": None, "target": {"name": "many_well", "dim": 2}, "objective": {"name": "reverse_kl"}},
            "Exact samples of the target",
            ["coverage.png", "energies.png", "latents.png"],
        ),
    ],
    ids=["fields", "exact_samples"],
)
def test_a_run_on_a_target_shows_its_energies(tmp_path: Path, changes: dict[str, object], words: str, pictures: list[str]) -> None:
    folder = ran(tmp_path, **changes)
    text, _ = read(folder / "report.html")
    assert words in text and "without data" in text and "lower bound on log Z" in text and "eld-out data" not in text
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == sorted([*pictures, "samples.png", "training.png"])


def test_a_curve_is_drawn_once() -> None:
    """The ELBO is minus the loss of a reverse divergence: one panel for both, one for the effective share."""
    drawn = curves({"step": [1.0, 2.0], "loss": [3.0, 2.0], "elbo": [-3.0, -2.0], "ess": [0.5, 0.6]})
    assert drawn is not None and [axis.get_ylabel() for axis in drawn.axes] == ["loss", "ess"]


def test_the_flow_fits_the_target_before_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config: flow: expected events of shape \(4, 4\), the target's; LatticeFlow has \(8, 8\)"):
        ran(tmp_path, **PHI4, flow={"name": "lattice_flow", "shape": [8, 8]})
    with pytest.raises(ConfigError, match="without a context"):
        ran(tmp_path, **{**PHI4, "target": {"name": "many_well", "dim": 2}}, flow={**FLOW, "context_features": 1})
    assert not list(tmp_path.iterdir())


class Nowhere(Target):
    """No mass where x_0 > edge, or a NaN."""

    event_shape = (2,)

    def __init__(self, edge: float, there: float) -> None:
        super().__init__()
        self.edge, self.there = edge, there

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[..., 0] > self.edge, torch.full_like(x[..., 0], self.there), -0.5 * x.square().sum(-1))


def test_target_metrics_where_weights_are_missing() -> None:
    """Half of a normal: the weights say so and log Z is that of the half; where nothing is left, no number is infinite or NaN."""
    flow = flowkit.Flow(flowkit.distributions.StandardNormal((2,)), flowkit.bijectors.Affine(shape=(2,)))
    half = measure_target(flow, Nowhere(0.0, torch.nan), Evaluation(samples=4000))
    assert half["log_z"] == pytest.approx(math.log(math.pi), abs=4 * half["log_z_error"]) and half["ess"] == pytest.approx(0.5, abs=0.04)
    assert half["not_finite"] == pytest.approx(2000, abs=130) and half["elbo"] is None
    nothing = measure_target(flow, Nowhere(-100.0, -torch.inf), Evaluation(samples=50))
    assert nothing == {"samples": 50, "ess": 0.0, "log_z": None, "log_z_error": None, "elbo": None, "elbo_error": None}
    assert "log Z (nats)                 infinite" in text_table(nothing)


def test_bits_per_dim_and_baseline_are_those_of_the_rows(tmp_path: Path) -> None:
    folder = ran(tmp_path, data={"name": "digits"})
    outcome = read_run(folder)
    from flowkit.experiment.record import read_json

    metrics = read_json(folder / "metrics.json")
    assert metrics["bits_per_dim"] == pytest.approx(float(bits_per_dim(torch.tensor(-metrics["nll"]), 64, 17)), rel=1e-5)
    assert outcome.units.levels == 17 and outcome.units.is_image


def test_the_baseline_finds_the_blobs() -> None:
    data = flowkit.data.EightGaussians(train_size=2000, test_size=500)
    mixture = gaussian_mixture(data.train.x, data.test.x, most=12, seed=0)
    assert mixture.components in (8, 10) and mixture.log_prob.shape == (500,)
    assert gaussian_mixture(data.train.x[:3], data.test.x, most=12, seed=0).components <= 3


def test_folders_that_hold_no_run(tmp_path: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        write_report(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no run"):
        write_report(run / "flow")


def test_numbers() -> None:
    assert with_error(1.23456, 0.0123) == "1.235 ± 0.012" and with_error(-0.5, 0.2) == "−0.50 ± 0.20"
    assert rounded(12345) == "12,345" and rounded(None) == "infinite" and rounded(0.0) == "0.000" and with_error(1234.5, 56.0) == "1,234 ± 56"
    assert with_error(math.inf, math.nan) == "infinite" and with_error(1.5, math.nan) == "1.500"
    assert p_value(0.0001) == "p < 0.001" and p_value(0.5) == "p = 0.50" and p_value(0.013) == "p = 0.013"
    assert duration(3.21) == "3.2 s" and duration(75) == "1 min 15 s" and duration(7300) == "2 h 1 min"


def test_tables_of_metrics() -> None:
    rows = rows_of({"name": "x", "rows": 5, "nll": None, "nll_error": None, "unheard_of": 1.5})
    assert rows[0][:3] == ("rows", "5", "") and rows[1][1] == "infinite" and rows[2][0] == "unheard of"
    assert "NLL (nats)  1.50 ± 0.25" in text_table({"nll": 1.5, "nll_error": 0.25})
