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

    def __repr__(self) -> str:
        loss = self.history["loss"][-1] if self.history.get("loss") else float("nan")
        best = "" if self.best is None else f", {self.best['monitor']} {self.best['value']:.4g} at step {self.best['step']}"
        return f"FitResult({type(self.model).__name__}, {self.steps} steps in {self.seconds:.1f} s, loss {loss:.4g}{best})"


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
