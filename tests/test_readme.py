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


def test_the_example_of_a_plug_in_passes_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowkit.core.registry import BIJECTORS
    from flowkit.testing import check_bijector

    (example,) = blocks("docs/extending.md")
    (tmp_path / "bent_line_example.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        check_bijector(importlib.import_module("bent_line_example").BentLine(2))
    finally:
        BIJECTORS._classes.pop("bent_line", None)


def test_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 60
