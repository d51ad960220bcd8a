"""What the scalar maps' ops return beside the mapped values: the log-slopes, added up over an event."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError

BASES = ("none", "normal")
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def tally(out: Tensor, log_slope: Tensor, event_dims: int, base: str) -> tuple[Tensor, Tensor]:
    """Mapped values as they are, and the sum of the log-slopes over the last ``event_dims`` axes, in float32 at least.

    Args:
        out: (*B, *event); log_slope: (*B, *event).
        event_dims: number of axes of an event; 0 leaves the log-slopes as they are.
        base: "normal" adds log N(out; 0, I), so that the sum is the log-density of a standard normal under the map; "none" adds nothing.

    Returns:
        out, and (*B).
    """
    if base not in BASES:
        raise ConfigError(f"tally: expected base to be one of {', '.join(BASES)}; got {base!r}.")
    if base == "normal":
        log_slope = log_slope - 0.5 * out.square() - HALF_LOG_2PI
    dtype = torch.promote_types(log_slope.dtype, torch.float32)
    if event_dims == 0:
        return out, log_slope.to(dtype)
    return out, log_slope.sum(dim=tuple(range(-event_dims, 0)), dtype=dtype)


def standard_log_normal(value: Tensor, event_dims: int) -> Tensor:
    """log N(value; 0, I), added up over the last ``event_dims`` axes: (*B, *event) -> (*B), in float32 at least."""
    squares, length = value.square(), value.shape[value.dim() - event_dims :].numel()
    dtype = torch.promote_types(value.dtype, torch.float32)
    # squares first: the rest then concerns an event, not its every element
    total = squares.to(dtype) if event_dims == 0 else squares.sum(dim=tuple(range(-event_dims, 0)), dtype=dtype)
    return -0.5 * total - HALF_LOG_2PI * length
