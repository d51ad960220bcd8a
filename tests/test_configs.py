"""Every config that comes with the project parses, builds, and trains two steps to a report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from inspect import signature
from pathlib import Path

import pytest

from flowkit.core.build import build
from flowkit.core.registry import DATA
from flowkit.experiment.config import read_config
from flowkit.experiment.run import start
from flowkit.plots import density_2d

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALL = [
    ("training.max_steps", "2"),
    ("training.batch_size", "16"),
    ("training.progress", "false"),
    ("evaluation.samples", "20"),
    ("evaluation.components", "1"),
]
ROWS = [("data.train_size", "200"), ("data.validation_size", "50"), ("data.test_size", "50")]  # of synthetic data


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures() -> Iterator[None]:
    """Fewer pixels, frames, samples shown and slow densities: they are most of a tiny run."""
    few = {"DPI": 30, "POLE_TO_POLE": 12, "SHOWN": 200, "PICTURES": 6, "MOVING": 60, "STRIP_ROWS": 2, "STRIP_TIMES": 3}
    with pytest.MonkeyPatch.context() as patch:
        for name, number in few.items():
            patch.setattr(f"flowkit.experiment._pictures.{name}", number)
        patch.setattr("flowkit.experiment._pictures.density_2d", partial(density_2d, resolution=30))
        patch.setattr("flowkit.experiment._paths.FRAMES", 3)
        for name in ("MOST_NUMBERS", "NUMBERS_AT_A_TIME"):
            patch.setattr(f"flowkit.experiment.evaluate.{name}", 2**12)  # five images of MNIST
        yield


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_header_says_what_to_expect(path: Path) -> None:
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#"))
    for word in ("Shows", "Device", "Minutes", "Expect"):
        assert re.search(rf"^# {word}: ", header, re.MULTILINE), f"{path.name}: no line '# {word}: ...'"
    assert read_config(path).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps(path: Path, tmp_path: Path) -> None:
    config = read_config(path, SMALL)
    if config.data is not None and "test_size" in signature(DATA[config.data["name"]]).parameters:
        config = read_config(path, SMALL + ROWS)
    data = build(config.data, DATA) if config.data is not None else None
    if data is not None and not data.at_hand:
        pytest.skip(f"{path.stem}: its data are not on this machine; point FLOWKIT_DATA at them, or let 'flowkit fit' download them")
    outcome = start(config, where=str(path), root=tmp_path)
    assert outcome is not None
    assert outcome.metrics["steps"] == 2
    assert (outcome.folder / "report.html").is_file()
