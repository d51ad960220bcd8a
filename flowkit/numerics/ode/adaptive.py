"""Marching with an error estimate: every row chooses its own steps, finishes and fails on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.numerics.ode.control import Controller, Tolerance, first_step
from flowkit.numerics.ode.failures import DONE, NOT_FINITE, STEP_TOO_SMALL, TOO_MANY_STEPS
from flowkit.numerics.ode.march import Keep, Marched, Stride, empty
from flowkit.numerics.ode.system import System

BLOCK = 16  # rows that stopped are dropped in whole blocks: matrix products of such shapes round every row alike


@dataclass
class _Work:
    """Rows on their way: their indices (r,), states (r, M), slopes, times, next step sizes, earlier error ratios, constants, counts, status.

    ``anew`` counts the slopes that were evaluated at the end of an accepted step.
    """

    rows: Tensor
    state: Tensor
    slope: Tensor
    t: Tensor
    size: Tensor
    memory: list[Tensor]
    args: tuple[Any, ...]
    accepted: Tensor
    attempts: Tensor
    anew: Tensor
    hits: Tensor
    status: Tensor

    _PER_ROW = ("state", "slope", "t", "size", "accepted", "attempts", "anew", "hits", "status")

    def take(self, kept: Tensor) -> _Work:
        """Some of the rows."""
        values = {name: getattr(self, name)[kept] for name in self._PER_ROW}
        args = tuple(a[kept] if isinstance(a, Tensor) else a for a in self.args)
        return _Work(rows=self.rows[kept], memory=[m[kept] for m in self.memory], args=args, **values)

    def put(self, work: _Work) -> None:
        """Write those rows back, into tensors of their own: the old ones may be recorded."""
        for name in self._PER_ROW:
            setattr(self, name, getattr(self, name).index_copy(0, work.rows, getattr(work, name)))
        self.memory = [mine.index_copy(0, work.rows, theirs) for mine, theirs in zip(self.memory, work.memory, strict=True)]


class Adaptive:
    """Steps by an embedded error estimate.

    Args:
        system, stepper: the equation and the method.
        tolerance, controller: what is accepted, and the next step's size.
        max_steps: attempts per row and interval.
    """

    def __init__(self, system: System, stepper: Any, tolerance: Tolerance, controller: Controller, max_steps: int) -> None:
        self.system, self.stepper, self.tolerance, self.controller = system, stepper, tolerance, controller
        self.max_steps = max_steps

    def march(self, state: Tensor, args: Sequence[Any], t: Tensor, keep: Keep) -> Marched:
        """Through the output times t (T,); ``keep`` says what is recorded of the strides."""
        made = empty(state, t)
        whole = self._departure(state, tuple(args), t, made)
        for k in range(1, len(t)):
            whole = self._interval(k, whole, t[k], made, keep)
            made.states.append(whole.state)
        made.evaluations += self.stepper.evaluations(True) * whole.attempts + whole.anew
        made.accepted, made.rejected, made.hits = whole.accepted, whole.attempts - whole.accepted, whole.hits
        made.status, made.reached = whole.status, whole.t
        return made

    def _departure(self, state: Tensor, args: tuple[Any, ...], t: Tensor, made: Marched) -> _Work:
        """Slopes and step sizes at the start."""
        value, begin = self.stepper.value(state), t[:1].expand(state.shape[0])
        slope = self.system.slope(begin, value, args)
        made.evaluations += 1
        ahead = (t[-1] - t[0]).expand_as(begin)
        size = first_step(self.tolerance, self.stepper.order, value, slope, ahead, lambda h, y: self.system.stage(begin + h, value, y, args))
        made.evaluations += 1
        memory = [torch.ones_like(size) for _ in range(self.controller.memory)]
        accepted, attempts, anew, hits = (torch.zeros_like(made.status) for _ in range(4))
        status = torch.where(torch.isfinite(slope).all(dim=1), DONE, NOT_FINITE)
        rows = torch.arange(len(state), device=state.device)
        return _Work(rows, state, slope, begin, size, memory, args, accepted, attempts, anew, hits, status)

    def _interval(self, k: int, whole: _Work, target: Tensor, made: Marched, keep: Keep) -> _Work:
        """All rows to the next output time; rows that failed before stay where they are."""
        work, live = whole, whole.status == DONE
        at_start = live
        count, tries = int(live.sum()), 0
        while count:
            if _worth_dropping(count, len(work.rows)):
                if work is not whole:
                    whole.put(work)
                kept = _blocks(live, count)
                work, live, at_start = work.take(kept), live[kept], at_start[kept]
            tries += 1
            ahead = target - work.t
            # a step that would end just before the target would leave a sliver
            lands = work.size * (1 + 1e-6) >= ahead.abs()
            h = torch.where(lands, ahead, torch.copysign(work.size, ahead)) * live
            step = self.stepper.step(self.system, work.t, h, work.state, work.args, work.slope, True)
            ratio = self.tolerance.ratio(step.error, self.stepper.value(work.state), self.stepper.value(step.y))
            accepted = (ratio <= 1) & live
            stops = accepted & lands
            reflected = torch.zeros_like(accepted) if step.hits is None else accepted & (step.hits > 0)
            going, good, turned = torch.stack((live.sum() - stops.sum(), accepted.sum(), reflected.sum())).tolist()
            end = torch.where(lands, target, work.t + h)
            if keep and good:
                made.strides.append(_stride(k, work, keep, accepted, good, len(made.status), end, at_start, lands))
            self._resize(work, ratio, accepted, lands, h)
            if good:
                self._advance(work, step, ratio, accepted, reflected if turned else None, end)
            work.attempts = work.attempts + live
            at_start, live = at_start & ~accepted, live & ~stops
            if good < count or (tries >= self.max_steps and going):
                self._fail(work, h, ratio, live & ~accepted, live, tries)
                live = live & (work.status == DONE)
                going = int(live.sum())
            count = going
        if work is not whole:
            whole.put(work)
        return whole

    def _resize(self, work: _Work, ratio: Tensor, accepted: Tensor, lands: Tensor, h: Tensor) -> None:
        """The next step sizes."""
        grown = h.abs() * self.controller.factor([ratio, *work.memory])
        # a step cut short to land says nothing against the size that was planned
        size = torch.where(accepted, torch.where(lands, torch.maximum(grown, work.size), grown), torch.minimum(grown, h.abs()))
        work.size = torch.where(h == 0, work.size, size)

    def _advance(self, work: _Work, step: Any, ratio: Tensor, accepted: Tensor, reflected: Tensor | None, end: Tensor) -> None:
        """Move accepted rows on; new tensors, for the old ones may be recorded. A reflected end has another slope than the step's last."""
        column = accepted.unsqueeze(1)
        work.t, work.state = torch.where(accepted, end, work.t), torch.where(column, step.y, work.state)
        if self.stepper.uses_slope:
            if step.last is not None:
                work.slope = torch.where(column, step.last, work.slope)
            anew = accepted if step.last is None else reflected
            if anew is not None:
                slope = self.system.slope(work.t, self.stepper.value(work.state), work.args)
                work.slope, work.anew = torch.where(anew.unsqueeze(1), slope, work.slope), work.anew + anew
        work.accepted = work.accepted + accepted
        if step.hits is not None:
            work.hits = work.hits + step.hits * accepted
        if work.memory:
            work.memory = [torch.where(accepted, new, old) for new, old in zip((ratio, *work.memory), work.memory, strict=False)]

    def _fail(self, work: _Work, h: Tensor, ratio: Tensor, rejected: Tensor, live: Tensor, tries: int) -> None:
        """Rows whose step is at the rounding of their time, or that have tried too often, end here."""
        smallest = 16 * torch.finfo(h.dtype).eps * torch.maximum(work.t.abs(), (work.t + h).abs())
        stuck = rejected & (h.abs() <= smallest.clamp_min(torch.finfo(h.dtype).tiny))
        reason = torch.where(torch.isfinite(ratio), STEP_TOO_SMALL, NOT_FINITE)
        work.status = torch.where(stuck, reason, work.status)
        if tries >= self.max_steps:
            reason = torch.where(torch.isfinite(ratio), TOO_MANY_STEPS, NOT_FINITE)
            work.status = torch.where(live & (work.status == DONE), reason, work.status)


def _stride(k: int, work: _Work, keep: Keep, accepted: Tensor, good: int, rows: int, end: Tensor, at_start: Tensor, lands: Tensor) -> Stride:
    """The record of the accepted rows."""
    if good == rows:
        return Stride(k, None, work.state if keep == "states" else None, work.t, end, at_start, lands)
    chosen = accepted.nonzero().squeeze(1)
    state = work.state[chosen] if keep == "states" else None
    return Stride(k, work.rows[chosen], state, work.t[chosen], end[chosen], at_start[chosen], lands[chosen])


def _worth_dropping(live: int, rows: int) -> bool:
    """Whether leaving stopped rows out pays: a quarter of the work at least."""
    return 4 * (-(-live // BLOCK) * BLOCK) <= 3 * rows


def _blocks(live: Tensor, count: int) -> Tensor:
    """Indices of the live rows, in order, filled up with stopped ones to whole blocks."""
    wanted = -(-count // BLOCK) * BLOCK
    return torch.argsort(live.logical_not(), stable=True)[:wanted].sort().values
