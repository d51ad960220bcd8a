"""The committed reference page and stubs are what the code says."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from flowkit.core.build.stubs import PACKAGES, stub_text
from flowkit.experiment.reference import reference_text

ROOT = Path(__file__).parents[1]


def test_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == reference_text(), "run make docs"


@pytest.mark.parametrize("name", PACKAGES)
def test_stub_is_current(name: str) -> None:
    package = importlib.import_module(name)
    assert Path(package.__file__).with_suffix(".pyi").read_text() == stub_text(package), "run make stubs"
