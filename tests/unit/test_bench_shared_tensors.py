"""Ops whose rows share a tensor: its gradient is a sum over all rows, so all rows are verified."""

from __future__ import annotations

import pytest

from flowkit.bench.run import run
from flowkit.bench.setting import Setting
from flowkit.bench.suites import ops


def test_more_rows_than_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "CHECKED", 5)
    report = run("ops", Setting(device="cpu", threads=1, quick=True, rounds=1, op="diagonal_chain"))
    assert report.cases
    assert not [row.refused for case in report.cases for row in case.rows if row.refused]
