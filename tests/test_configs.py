"""Every config that comes with the project parses, builds, and trains two steps to a report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowkit.core.build import build
from flowkit.core.registry import DATA
from flowkit.experiment.config import read_config
from flowkit.experiment.run import start

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SMALL = [("training.max_steps", "2"), ("training.progress", "false"), ("evaluation.samples", "20"), ("evaluation.components", "1")]


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures() -> Iterator[None]:
    """Fewer pixels, frames and slow densities: they are most of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowkit.experiment._pictures.DPI", 30)
        patch.setattr("flowkit.experiment._pictures.POLE_TO_POLE", 12)
        patch.setattr("flowkit.experiment._paths.FRAMES", 3)
        patch.setattr("flowkit.experiment.evaluate.MOST_NUMBERS", 2**14)
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
    data = build(config.data, DATA) if config.data is not None else None
    if data is not None and not data.at_hand:
        pytest.skip(f"{path.stem}: its data are not on this machine; point FLOWKIT_DATA at them, or let 'flowkit fit' download them")
    outcome = start(config, where=str(path), root=tmp_path)
    assert outcome is not None
    assert outcome.metrics["steps"] == 2
    assert (outcome.folder / "report.html").is_file()
