"""What a path gradient costs beside the total derivative."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch

import flowkit as fk
from flowkit.core.objective import Batch

KINDS: tuple[Literal["total", "path", "path_two_pass"], ...] = ("total", "path", "path_two_pass")


def test_path_costs_less_than_two_passes() -> None:
    """physics-A15: path <= 2.5 total on affine couplings, and no more than two passes; medians of the ratios of 20 turns in CPU time."""
    torch.manual_seed(0)
    flow, target = fk.flows.RealNVP(16, layers=6, hidden=(128, 128)), fk.targets.ManyWell(16)
    objectives = {kind: fk.objectives.ReverseKL(target, gradient=kind) for kind in KINDS}
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(22):
        for kind, objective in objectives.items():
            start = time.process_time()
            objective.loss(flow, Batch(size=512), torch.Generator().manual_seed(turn)).value.backward()
            times[kind].append(time.process_time() - start)

    def over(kind: str) -> float:
        return statistics.median(a / b for a, b in zip(times[kind][2:], times["total"][2:], strict=True))

    assert over("path") <= 2.5
    assert over("path") <= over("path_two_pass")
