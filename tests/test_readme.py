"""The README's snippet runs as it stands."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def blocks(file: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), flags=re.DOTALL)


def test_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("README.md")
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert torch.isfinite(names["log_prob"]).all() and (tmp_path / "runs" / "moons" / "config.json").is_file()


def test_the_examples_of_plug_ins_pass_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.core.registry import BIJECTORS, OBJECTIVES, TARGETS
    from flowkit.testing import check_bijector, check_objective, check_target

    monkeypatch.syspath_prepend(tmp_path)
    modules = []
    for number, example in enumerate(blocks("docs/extending.md")):
        (tmp_path / f"plug_in_example_{number}.py").write_text(example)
    try:
        modules = [importlib.import_module(f"plug_in_example_{number}") for number in range(3)]
        check_bijector(modules[0].BentLine(2))
        for _, *example in modules[1].BlurredLikelihood.examples():
            check_objective(*example)
        for _, target in modules[2].BentNormal.examples():
            report = check_target(target)
            assert {"normalizer", "samples", "invariances_hold", "describe_build"} <= set(report.passed)
    finally:
        BIJECTORS._classes.pop("bent_line", None)
        OBJECTIVES._classes.pop("blurred_likelihood", None)
        TARGETS._classes.pop("bent_normal", None)


GUIDES = [(guide, number) for guide in ("maps", "continuous", "boltzmann", "performance") for number in range(len(blocks(f"docs/{guide}.md")))]


@pytest.mark.parametrize(("guide", "number"), GUIDES)
def test_the_guides(guide: str, number: int) -> None:
    exec(compile(blocks(f"docs/{guide}.md")[number], f"docs/{guide}.md, block {number}", "exec"), {})


def test_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60
