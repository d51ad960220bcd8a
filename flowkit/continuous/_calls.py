"""What velocity fields do with their arguments: checks, times in the dtype of the values, batches in one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context, check_context, check_event, positive_sizes


def check_call(field: Any, x: Tensor, context: Context) -> None:
    """Raise ShapeError for a wrong event, or a context that is missing or not declared; cheap where all is right."""
    event = field.event_shape
    if tuple(x.shape[x.dim() - len(event) :]) != event or not x.is_floating_point():
        check_event(x, event, type(field).__name__)
    if context is not None or field.context_shape is not None:
        check_context(context, field.context_shape, type(field).__name__)


def time_like(t: Tensor, x: Tensor) -> Tensor:
    """The time in the dtype of the values."""
    return t if t.dtype == x.dtype else t.to(x.dtype)


def hidden_sizes(hidden: Sequence[int], who: str) -> tuple[int, ...]:
    """Check the widths of hidden layers: at least one."""
    sizes = positive_sizes(hidden, who, "hidden")
    if not sizes:
        raise ConfigError(f"{who}: expected at least one hidden width; got none. Pass e.g. hidden=(64, 64).")
    return sizes
