"""Known defects of nflows, normflows, zuko, FrEIA and Pyro: each shown on the peer, and absent here by the same measurement."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
DEFECTS: list[Any] = importlib.import_module("_peer_defects").DEFECTS


def name(defect: Any) -> str:
    return f"{defect.peer}-{defect.name}"


@pytest.mark.parametrize("defect", DEFECTS, ids=name)
def test_the_peer_shows_it(defect: Any) -> None:
    pytest.importorskip(defect.peer)
    outcome = defect.on_peer()
    if not defect.shown_by(outcome) and defect.installed_version != defect.tested_version:
        pytest.skip(f"seen with {defect.peer} {defect.tested_version}; {defect.installed_version} gives {outcome}")
    assert not outcome.right, f"{defect.statement} Measured: {defect.quantity} = {outcome}, wanted {defect.wanted}, and that it is."
    assert outcome.error == defect.raises, f"expected {defect.raises or 'a wrong value'}; got {outcome}"


@pytest.mark.parametrize("defect", DEFECTS, ids=name)
def test_flowkit_does_not(defect: Any) -> None:
    outcome = defect.on_flowkit()
    assert outcome.right, f"{defect.quantity}: {outcome}, wanted {defect.wanted}"


def test_the_table_is_whole() -> None:
    assert max(Counter(map(name, DEFECTS)).values()) == 1
    assert {defect.peer for defect in DEFECTS} == {"nflows", "normflows", "zuko", "FrEIA", "pyro"}
