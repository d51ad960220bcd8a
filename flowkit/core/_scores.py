"""The score rule through all maps of a flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context, Shape, zeros_log_det
from flowkit.core.transform import Bijector


def check_carries(maps: Iterable[Any], who: str) -> None:
    """Raise ConfigError where a map has no score to carry: it draws, or is no bijector."""
    for step in maps:
        if not isinstance(step, Bijector) or step.traits.score == "none" or step.traits.log_det in ("bound", "volume"):
            raise ConfigError(f"{who}: expected bijectors, whose scores can be carried; got {step.who}. Train with gradient='total'.")


def carry_all(
    maps: Iterable[Any], value: Tensor, event: Shape, score: Tensor, context_for: Callable[[Any], Context], generator: torch.Generator | None, *, inverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``push_score`` of maps one after the other, or ``pull_score``: value, log_det of all and the score."""
    total = zeros_log_det(value, event)
    for step in maps:
        carry = step.pull_score if inverse else step.push_score
        value, log_det, score = carry(value, score, context_for(step), generator=generator)
        total = total + log_det
    return value, total, score
