"""The recorded strides made again under autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.numerics.ode.march import Marched, Stride
from flowkit.numerics.ode.system import System


def replay(system: System, stepper: Any, marched: Marched, state: Tensor, args: Sequence[Any], t: Tensor) -> list[Tensor]:
    """The states at the output times again, through the recorded strides, with a graph (rejected steps leave none in it)."""
    states = [state]
    for stride in marched.strides:
        while len(states) < stride.interval:
            states.append(state)
        rows = stride.rows
        part = state if rows is None else state[rows]
        some = tuple(args) if rows is None else tuple(a[rows] if isinstance(a, Tensor) else a for a in args)
        start, end = stride_times(stride, t)
        moved = stepper.step(system, start, end - start, part, some).y
        state = moved if rows is None else state.index_copy(0, rows, moved)
    while len(states) < len(t):
        states.append(state)
    return states


def stride_times(stride: Stride, t: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end of a stride (r,), as functions of the output times where these are differentiated."""
    if not t.requires_grad:
        return stride.start, stride.end
    first, last = t[stride.interval - 1], t[stride.interval]
    if isinstance(stride.departs, float):  # a fixed grid moves as a whole
        rows = len(stride.start)
        return torch.lerp(first, last, stride.departs).expand(rows), torch.lerp(first, last, stride.arrives).expand(rows)
    if isinstance(stride.departs, bool):
        return first.reshape(1) if stride.departs else stride.start, last.reshape(1) if stride.arrives else stride.end
    return torch.where(stride.departs, first, stride.start), torch.where(stride.arrives, last, stride.end)
