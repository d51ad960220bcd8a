"""The keywords of ``fit``, checked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive, whole_number
from flowkit.training.optimizers import check_optimizer, schedule_factor


@dataclass(frozen=True)
class Settings:
    """What decides the course of a run; a continued run must have the same. Meanings as in ``fit``."""

    max_epochs: int | None
    max_steps: int | None
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str
    schedule: str
    ema: float | None
    clip: float | None
    precision: str
    gradient_accumulation: int
    patience: int | None
    monitor: str | None
    non_finite: str
    standardize: bool
    seed: int

    def __post_init__(self) -> None:
        for name in ("max_epochs", "max_steps", "batch_size", "gradient_accumulation", "patience"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else positive(value, "fit", name))  # a plain int, also of numpy's
        for name, low, high in (("lr", 0.0, math.inf), ("clip", 0.0, math.inf), ("ema", 0.0, 1.0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and low < value < high):
                raise ConfigError(f"fit: expected {low:g} < {name} < {high:g}; got {value!r}.")
        if self.weight_decay < 0:
            raise ConfigError(f"fit: expected weight_decay >= 0; got {self.weight_decay!r}.")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"fit: expected precision 'fp32' or 'bf16'; got {self.precision!r}. For float64 call model.double() first.")
        if self.non_finite not in ("stop", "skip"):
            raise ConfigError(f"fit: expected non_finite 'stop' or 'skip'; got {self.non_finite!r}.")
        object.__setattr__(self, "seed", whole_number(self.seed, "fit", "seed", 0, 2**63))
        check_optimizer(self.optimizer)
        schedule_factor(self.schedule, 0, 1)

    def total_steps(self, steps_per_epoch: int, *, draws_own: bool) -> int:
        """Optimiser steps in all: the smaller of both limits; 100 epochs, or 5,000 steps without data, when neither is set."""
        limits = [] if self.max_steps is None else [self.max_steps]
        if self.max_epochs is not None:
            limits.append(self.max_epochs * steps_per_epoch)
        return min(limits) if limits else 5000 if draws_own else 100 * steps_per_epoch

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)
