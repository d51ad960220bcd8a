"""The strides a solution takes from output time to output time, and the march over a fixed grid.

Marching finds the mesh and records nothing for autograd. What differentiates a solution walks over the recorded strides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.numerics.ode.failures import DONE, NOT_FINITE
from flowkit.numerics.ode.system import System

Keep = Literal["states", "times"] | None


@dataclass
class Stride:
    """One accepted step of some rows.

    Args:
        interval: it ends at or before output time ``interval``.
        rows: their indices (r,), None for all.
        state: at its start (r, M), None where only times are kept.
        start, end: times (r,).
        departs, arrives: weights of the interval's two output times in ``start`` and ``end``: a stride that departs from the first one
            moves with it; tensors (r,), truth values, or fractions of the interval.
    """

    interval: int
    rows: Tensor | None
    state: Tensor | None
    start: Tensor
    end: Tensor
    departs: Any
    arrives: Any


@dataclass
class Marched:
    """States at the output times (T, R, M), the strides, and counts per row."""

    states: list[Tensor]
    strides: list[Stride]
    evaluations: Tensor
    accepted: Tensor
    rejected: Tensor
    hits: Tensor
    status: Tensor
    reached: Tensor


March = Callable[[Tensor, tuple[Any, ...], Tensor, Keep], Marched]  # (state, constants, output times, what to record)


def nodes(t: Tensor, k: int, steps: int) -> Tensor:
    """Times of equal steps from t[k - 1] to t[k], both ends included: (steps + 1,)."""
    return torch.lerp(t[k - 1], t[k], torch.arange(steps + 1, dtype=t.dtype, device=t.device) / steps)


def fixed(system: System, stepper: Any, state: Tensor, args: Sequence[Any], t: Tensor, counts: Sequence[int], keep: Keep) -> Marched:
    """``counts[k - 1]`` equal steps from t[k - 1] to t[k]."""
    made = empty(state, t)
    rows, evaluations = state.shape[0], 0
    slope: Tensor | None = None
    for k, steps in enumerate(counts, start=1):
        times = nodes(t, k, steps)
        for j in range(steps):
            start, end = times[j : j + 1].expand(rows), times[j + 1 : j + 2].expand(rows)
            if keep:
                made.strides.append(Stride(k, None, state if keep == "states" else None, start, end, j / steps, (j + 1) / steps))
            step = stepper.step(system, start, end - start, state, args, slope)
            evaluations += stepper.evaluations(slope is not None, False)
            state, slope = step.y, step.last
            if step.hits is not None:
                made.hits = made.hits + step.hits
        made.states.append(state)
    made.evaluations += evaluations
    made.accepted += sum(counts)
    made.reached = t[-1:].expand(rows)
    made.status = torch.where(torch.isfinite(state).all(dim=1), DONE, NOT_FINITE)
    return made


def empty(state: Tensor, t: Tensor) -> Marched:
    """Nothing marched yet."""
    count = torch.zeros(state.shape[0], dtype=torch.int64, device=state.device)
    return Marched([state], [], count, count.clone(), count.clone(), count.clone(), count.clone(), t[:1].expand(state.shape[0]))
