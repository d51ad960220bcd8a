"""The statistics of benchmarks: the numbers are what they say. Nothing here is timed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from flowkit.bench.contender import Check
from flowkit.bench.flow_models import distance
from flowkit.bench.report import Case, Row
from flowkit.bench.suites.growth import curve
from flowkit.bench.summary import best, overall_slope, quartiles, ratio, slopes
from flowkit.bench.timing import Race, kept, race


def test_statistics() -> None:
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)
    assert ratio([2.0, 8.0, 30.0], [1.0, 2.0, 3.0]) == 4.0  # the median of 2, 4, 10; not 30 / 3 nor the ratio of medians by chance
    assert ratio([2.0, 9.0, 10.0], [1.0, 9.0, 10.0]) == 1.0
    assert best([[3.0, 1.0], [2.0, 5.0]]) == [2.0, 1.0]


def test_slopes() -> None:
    x = [1.0, 10.0, 100.0]
    assert slopes(x, [2.0, 20.0, 2000.0]) == pytest.approx([1.0, 2.0])
    assert overall_slope(x, [3.0, 300.0, 30000.0]) == pytest.approx(2.0)
    found = curve("batch", x, {"step": [1.0, 10.0, 1000.0]}, {"step": [5.0, 50.0, 500.0]})
    assert found.slopes["step"] == [None, pytest.approx(1.0), pytest.approx(2.0)]
    assert found.notes == ["Steeper than linear: step, batch 10 to 100: 2.00."]


def test_rounds_with_a_busy_machine_are_left_out() -> None:
    assert kept([1.0, 0.2, 0.9, 0.95]) == [0, 2, 3]
    assert kept([0.5, 0.2, 0.9, 0.3]) == [0, 2]  # fewer than half were idle: the idlest half
    assert kept([0.0]) == [0]


def test_everyone_takes_turns_in_rotated_order() -> None:
    said: list[str] = []

    def clock(name: str) -> Any:
        return lambda repeats: said.append(name) or [1.0] * repeats

    found = race({name: clock(name) for name in "abc"}, 3, warmups=1)
    assert said == [*"aabbcc", *"abc", *"bca", *"cab"]
    assert all(len(times) == 3 for times in found.times.values())


def test_distance() -> None:
    assert distance(torch.tensor([1.0, 2.0]), [1.0, 4.0]) == 0.5
    assert distance([math.nan], [1.0]) == math.inf == distance([1.0, 2.0], [1.0])
    off = np.zeros(20_000)
    off[:2] = 1.0  # two entries in twenty thousand may lie on a knot, three may not
    assert distance(off, np.zeros(20_000), 1e-4) == 0.0
    off[2] = 1.0
    assert distance(off, np.zeros(20_000), 1e-4) > 1e-3
    assert not Check(math.nan, 1.0, "nothing").agrees


def test_ratios_are_of_the_same_round() -> None:
    case = Case("job", [Row("ours", "ours"), Row("slow", "eager"), Row("fast", "jit"), Row("copy", "floor")])
    case.record(Race({"ours": [1.0, 2.0, 50.0], "slow": [4.0, 8.0, 100.0], "fast": [2.0, 6.0, 5.0], "copy": [0.1, 0.1, 0.1]}, idle=[1, 1, 0.1], kept=[0, 1]))
    ours, slow, fast, copy = case.rows
    assert (case.rounds, case.kept, case.idle) == (3, 2, 1)
    assert ours.median == 1.5 and ours.times == [1.0, 2.0]
    assert (ours.slower, slow.slower, fast.slower) == (1.0, 4.0, 2.5)
    assert ours.gain == {"eager": 4.0, "jit": 2.5, "peers": 2.5} and not fast.gain and copy.median == 0.1
