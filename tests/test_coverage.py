"""The table of what other libraries have: every class is registered and its examples run, every row has an agreement test."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from flowkit.core.registry import REGISTRIES
from flowkit.testing._case import seeded_examples

ROOT = Path(__file__).parents[1]


def _page() -> Any:
    spec = importlib.util.spec_from_file_location("make_coverage", ROOT / "docs" / "make_coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = _page()
ROWS = PAGE.rows()
NAMED = sorted({(kind, name) for row in ROWS for kind, names in row["classes"].items() for name in names})


@pytest.mark.parametrize(("kind", "name"), NAMED, ids=[f"{kind}-{name}" for kind, name in NAMED])
def test_examples_are_built(kind: str, name: str) -> None:
    assert name in REGISTRIES[kind], f"{name} is not registered among the {kind}"
    labels = [label for label, *_ in seeded_examples(REGISTRIES[kind][name])]
    assert labels and len(set(labels)) == len(labels)


@pytest.mark.parametrize("row", ROWS, ids=[row["feature"].split(",")[0] for row in ROWS])
def test_every_row_is_compared(row: dict[str, Any]) -> None:
    assert row["classes"] and row["tests"]
    for test in row["tests"]:
        file, name = test.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body), f"no test {test}"


def test_page_is_current() -> None:
    assert (ROOT / "docs" / "coverage.md").read_text() == PAGE.text(), "run make docs"
