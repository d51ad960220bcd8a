"""Shared by all tests: torch's global settings are guarded, the property checks counted, what stays to the end is not searched for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

PROPERTIES = "tests/properties/"
_deselected = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def torch_globals() -> Iterator[None]:
    """Fail a test that leaves torch's default dtype or default device changed."""
    before = (torch.get_default_dtype(), torch.get_default_device())
    yield
    after = (torch.get_default_dtype(), torch.get_default_device())
    torch.set_default_dtype(before[0])
    assert after == before, f"the test changed torch's globals from {before} to {after}"


def pytest_collection_finish() -> None:
    """Modules, tests and examples stay to the end: half a million objects that every full collection would visit."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_deselected(items: list[Any]) -> None:
    if items:
        stash = items[0].config.stash
        stash[_deselected] = stash.get(_deselected, 0) + sum(item.nodeid.startswith(PROPERTIES) for item in items)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how many property checks ran."""
    counts = {
        outcome: sum(PROPERTIES in report.nodeid for report in terminalreporter.stats.get(outcome, []) if getattr(report, "when", "call") == "call")
        for outcome in ("passed", "failed", "xfailed")
    }
    total = sum(counts.values())
    if total:
        left = config.stash.get(_deselected, 0)
        declared = f"{counts['xfailed']} declared failures ({100 * counts['xfailed'] / total:.1f} %)"
        terminalreporter.write_line(f"property checks: {total} run, {counts['failed']} failed, {declared}, {left} deselected")
