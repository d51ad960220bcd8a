"""What a fit returns and what its callbacks see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class FitResult:
    """The outcome of ``fit``.

    Attributes:
        model: the model, trained in place, best weights restored.
        history: name -> one number per row; ``step``, ``epoch``, ``loss``, ``lr``, ``seconds``, ``skipped`` always,
            ``validation_*`` and the objective's terms where there are any.
        best: ``{"step", "epoch", "value", "monitor"}`` of the weights restored, or None when the last were kept.
        steps: optimiser steps taken over all runs.
        seconds: wall-clock time over all runs.
    """

    model: nn.Module
    history: dict[str, list[float]]
    best: dict[str, Any] | None
    steps: int
    seconds: float


@dataclass
class Progress:
    """Where a fit stands after an epoch; a callback that returns True stops it.

    Attributes:
        model: being trained; with ``ema``, holding the averaged weights.
        row: the newest row of the history.
    """

    model: nn.Module
    step: int
    total_steps: int
    epoch: int
    row: dict[str, float]
