"""Fixed points of contractions, event by event."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.core.checks import runs_eagerly

Function = Callable[[Tensor], Tensor]
MEMORY = 5  # differences that Anderson's method keeps
GAIN = 0.9  # an accelerated step must shrink the residual by this factor, or it is taken back
LONGEST_WAIT = 64  # plain steps before acceleration is tried again, at most


class FixedPoint(NamedTuple):
    """How a fixed-point iteration ended, for every event.

    Args:
        iterations: evaluations of the function (*B), int64.
        residual: largest entry of |F(z) - z|, over the larger of the scale and |z| (*B).
        converged: residual <= tolerance (*B), bool.
    """

    iterations: Tensor
    residual: Tensor
    converged: Tensor


def solve_fixed_point(function: Function, start: Tensor, rank: int, *, scale: Tensor, tolerance: float, max_iterations: int) -> tuple[Tensor, FixedPoint]:
    """Solve z = F(z) for a contraction F, every event on its own, until |F(z) - z| <= tolerance * max(scale, |z|).

    Anderson's method with a safeguard: an accelerated step that does not shrink the residual by a tenth is taken back, and
    1, 2, 4, ... plain steps z <- F(z) follow, each of which gains the contraction's own factor, before the next is tried.
    An event that has converged is left alone: what it becomes does not depend on the others. No gradient passes through.

    Args:
        function: (*B, *event) -> (*B, *event), events independent of each other.
        start: (*B, *event); rank: number of event axes.
        scale: (*B), >= 0.
        tolerance: relative; max_iterations: most evaluations.

    Returns:
        z (*B, *event) and how it ended; NaN where the start or the function is NaN.

    Reference: Walker and Ni (2011), Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49(4), section 2.
    """
    with torch.no_grad():
        batch, event = start.shape[: start.dim() - rank], start.shape[start.dim() - rank :]

        work = torch.promote_types(start.dtype, torch.float32)

        def change(flat: Tensor) -> Tensor:
            return function(flat.to(start.dtype).reshape(*batch, *event)).reshape(flat.shape).to(work) - flat

        state = _State(start.reshape(*batch, event.numel()).to(work), change, tolerance, scale.to(work))
        for i in range(max_iterations - 1):
            if _may_stop(state.done | torch.isnan(state.gap)):
                break
            state.step(change, i % MEMORY)
        return state.z.to(start.dtype).reshape(start.shape), FixedPoint(state.count, state.residual(), state.done)


class _State:
    """The best point of every event so far, what has been learnt around it, and the point to try next."""

    def __init__(self, z: Tensor, change: Function, tolerance: float, scale: Tensor) -> None:
        self.z, self.f, self.tolerance, self.scale = z, change(z), tolerance, scale
        self.steps, self.changes = z.new_zeros((*z.shape, MEMORY)), z.new_zeros((*z.shape, MEMORY))
        self.count = torch.ones_like(scale, dtype=torch.int64)
        self.wait, self.penalty = torch.ones_like(self.count), torch.ones_like(self.count)  # plain steps to take; and after the next failure
        self.slot = torch.arange(MEMORY, device=z.device)
        self.after = z + self.f
        self._measure(torch.zeros_like(scale, dtype=torch.bool))

    def _measure(self, done: Tensor) -> None:
        self.gap = torch.linalg.vector_norm(self.f, ord=torch.inf, dim=-1)
        self.size = torch.maximum(self.scale, torch.linalg.vector_norm(self.z, ord=torch.inf, dim=-1))
        self.done = done | (self.gap <= self.tolerance * self.size)

    def residual(self) -> Tensor:
        return self.gap / self.size.clamp(min=torch.finfo(self.size.dtype).tiny)

    def step(self, change: Function, slot: int) -> None:
        """Evaluate at the point to try, keep it if it is better, choose the next one."""
        f_after = change(self.after)
        here = self.slot == slot
        self.steps = torch.where(here, (self.after - self.z).unsqueeze(-1), self.steps)
        self.changes = torch.where(here, (f_after - self.f).unsqueeze(-1), self.changes)
        plain = self.wait > 0
        shrunk = torch.linalg.vector_norm(f_after, dim=-1) <= GAIN * torch.linalg.vector_norm(self.f, dim=-1)
        moves = ((plain | shrunk) & ~self.done).unsqueeze(-1)
        self.z, self.f = torch.where(moves, self.after, self.z), torch.where(moves, f_after, self.f)
        self.count = self.count + (~self.done).to(self.count.dtype)
        failed = ~plain & ~shrunk
        self.wait = torch.where(plain, self.wait - 1, torch.where(failed, self.penalty, 0))
        self.penalty = torch.where(failed, (2 * self.penalty).clamp(max=LONGEST_WAIT), torch.where(plain, self.penalty, 1))
        self._measure(self.done)
        correction = torch.where((self.wait > 0).unsqueeze(-1), 0.0, _correction(self.f, self.steps, self.changes))
        self.after = self.z + self.f - correction


def _correction(f: Tensor, steps: Tensor, changes: Tensor) -> Tensor:
    """(dZ + dF) c with c the least-squares solution of dF c = f, by the normal equations of the unit columns of dF: (*B, n)."""
    lengths = torch.linalg.vector_norm(changes, dim=-2, keepdim=True)
    inverse = torch.where(lengths > 0, 1 / torch.where(lengths > 0, lengths, 1.0), 0.0)  # an unused column stays zero
    unit, paired = changes * inverse, (steps + changes) * inverse
    ridge = 100 * torch.finfo(f.dtype).eps * torch.eye(MEMORY, dtype=f.dtype, device=f.device)
    weights = torch.linalg.solve_ex(unit.mT @ unit + ridge, unit.mT @ f.unsqueeze(-1))[0]
    return (paired @ weights).squeeze(-1)


def _may_stop(finished: Tensor) -> bool:
    """Whether all events are finished, where that can be known: not in a compiled graph or under vmap; meta tensors have nothing to wait for."""
    if not runs_eagerly():
        return False
    return finished.is_meta or bool(finished.all())
