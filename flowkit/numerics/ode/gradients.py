"""Gradients of a solution, stride by stride in reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowkit.numerics.ode.march import Marched, Stride
from flowkit.numerics.ode.parameters import Parameters
from flowkit.numerics.ode.replay import stride_times
from flowkit.numerics.ode.second_derivatives import differentiate_again
from flowkit.numerics.ode.system import System

_TENSORS = ("rows", "state", "start", "end", "departs", "arrives")  # of a stride, some of them numbers


def _stored(strides: Sequence[Stride]) -> tuple[list[Stride], list[Tensor | None]]:
    """Strides without their tensors, and those tensors in a list that autograd keeps and frees."""
    bare: list[Stride] = []
    tensors: list[Tensor | None] = []
    for stride in strides:
        own: dict[str, Any] = {name: getattr(stride, name) for name in _TENSORS if isinstance(getattr(stride, name), Tensor)}
        without: dict[str, Any] = dict.fromkeys(own)
        bare.append(replace(stride, **without))
        tensors.extend(own.get(name) for name in _TENSORS)
    return bare, tensors


def _restored(strides: Sequence[Stride], tensors: Sequence[Tensor | None]) -> list[Stride]:
    """The strides that ``_stored`` took apart."""
    whole: list[Stride] = []
    for i, stride in enumerate(strides):
        each = tensors[i * len(_TENSORS) : (i + 1) * len(_TENSORS)]
        own: dict[str, Any] = {name: value for name, value in zip(_TENSORS, each, strict=True) if value is not None}
        whole.append(replace(stride, **own))
    return whole


class DiscreteAdjoint(torch.autograd.Function):
    """Exact gradients of the steps taken, from the states at their starts: each step is made again and differentiated on its own.

    Memory: one state per step and one step's graph; of a reversible method no states, which are recovered by taking its steps back.
    Cost of the backward: a step and its vector-Jacobian product, for each.

    Reference: Sanz-Serna (2016), Symplectic Runge-Kutta schemes for adjoint equations, arXiv:1503.04021; Matsubara et al. (2021),
    Symplectic adjoint method, arXiv:2102.09750.
    """

    @staticmethod
    def forward(ctx: Any, solver: tuple[Any, ...], made: list[Marched], parameters: Parameters, count: int, t: Tensor, state: Tensor, *inputs: Any) -> Tensor:
        """The states (T, R, M) at the output times.

        solver: system, stepper, march, and "discrete" or "reversible"; made: receives the march; inputs: ``count`` constants, then the
        parameters.
        """
        args, (system, stepper, march, kind) = inputs[:count], solver
        marched = march(state, args, t, "states" if kind == "discrete" else "times")
        made.append(marched)
        bare, tensors = _stored(marched.strides)
        ctx.system, ctx.stepper, ctx.strides, ctx.count, ctx.parameters, ctx.kept = system, stepper, bare, count, parameters, len(tensors)
        ctx.plain = tuple(None if isinstance(a, Tensor) else a for a in args)
        last = None if kind == "discrete" else marched.states[-1]
        ctx.problem = (system, stepper, march)
        ctx.save_for_backward(t, state, last, *tensors, *(a if isinstance(a, Tensor) else None for a in args), *inputs[count:])
        return torch.stack(marched.states)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        t, begin, state, *rest = ctx.saved_tensors
        strides, rest = _restored(ctx.strides, rest[: ctx.kept]), rest[ctx.kept :]
        args = tuple(plain if saved is None else saved for saved, plain in zip(rest[: ctx.count], ctx.plain, strict=True))
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself
            return None, None, None, None, *differentiate_again(ctx.problem, ctx.parameters, t, begin, args, rest[ctx.count :], grad)
        wanted = ctx.needs_input_grad[4:]
        leaves = ctx.parameters.leaves(rest[ctx.count :])
        sums = _Sums(t, args, leaves, wanted, ctx.parameters.shared)
        adjoint, interval = grad[-1].clone(), len(grad) - 1
        for stride in reversed(strides):
            while interval > stride.interval:
                interval -= 1
                adjoint = adjoint + grad[interval]
            if stride.state is None:
                stride, state = _undone(ctx.system, ctx.stepper, stride, state, args)
            part = adjoint if stride.rows is None else adjoint[stride.rows]
            with ctx.parameters.installed(leaves):
                part = sums.pull(ctx.system, ctx.stepper, stride, part)
            adjoint = part if stride.rows is None else adjoint.index_copy(0, stride.rows, part)
        for k in range(interval - 1, -1, -1):
            adjoint = adjoint + grad[k]
        return None, None, None, None, sums.t, adjoint if wanted[1] else None, *sums.args, *sums.parameters


def _undone(system: System, stepper: Any, stride: Stride, state: Tensor, args: tuple[Any, ...]) -> tuple[Stride, Tensor]:
    """A stride with the state it started from, and the state of all rows (R, M) there."""
    rows = stride.rows
    some = args if rows is None else tuple(a[rows] if isinstance(a, Tensor) else a for a in args)
    before = stepper.undo(system, stride.start, stride.end - stride.start, state if rows is None else state[rows], some)
    return replace(stride, state=before), before if rows is None else state.index_copy(0, rows, before)


class _Sums:
    """Gradients with respect to times, constants and parameters, summed over strides."""

    def __init__(self, t: Tensor, args: tuple[Any, ...], parameters: Sequence[Tensor], wanted: Sequence[bool], shared: bool) -> None:
        self.inputs, self.leaves, self.times, self.shared = args, parameters, t, shared
        self.wants_t, self.wants_args = wanted[0], wanted[2 : 2 + len(args)]
        self.wants_parameters = wanted[2 + len(args) :]
        self.t = torch.zeros_like(t) if wanted[0] else None
        self.args: list[Any] = [torch.zeros_like(a) if w else None for a, w in zip(args, self.wants_args, strict=True)]
        self.parameters: list[Any] = [torch.zeros_like(p) if w else None for p, w in zip(parameters, self.wants_parameters, strict=True)]

    def pull(self, system: System, stepper: Any, stride: Stride, adjoint: Tensor) -> Tensor:
        """The adjoint (r, M) at the start of a stride, from that at its end."""
        rows = stride.rows
        assert stride.state is not None
        with torch.enable_grad():
            state = stride.state.detach().requires_grad_()
            args = tuple(
                (a if rows is None else a[rows]).detach().requires_grad_(w) if isinstance(a, Tensor) else a
                for a, w in zip(self.inputs, self.wants_args, strict=True)
            )
            t = self.times.detach().requires_grad_(self.wants_t)
            start, end = stride_times(stride, t)
            moved = stepper.step(system, start, end - start, state, args).y
        parameters = [p for p, w in zip(self.leaves, self.wants_parameters, strict=True) if w]
        sources = [state, *([t] if self.wants_t else []), *(a for a, w in zip(args, self.wants_args, strict=True) if w), *parameters]
        if not moved.requires_grad:
            return adjoint
        found = list(torch.autograd.grad(moved, sources, adjoint, allow_unused=True, retain_graph=self.shared))
        back = found.pop(0)
        if self.wants_t:
            self._add(self.t, found.pop(0), None)
        for total, w in zip(self.args, self.wants_args, strict=True):
            if w:
                self._add(total, found.pop(0), rows)
        for total in (p for p in self.parameters if p is not None):
            self._add(total, found.pop(0), None)
        return torch.zeros_like(adjoint) if back is None else back

    @staticmethod
    def _add(total: Tensor | None, found: Tensor | None, rows: Tensor | None) -> None:
        if total is not None and found is not None:
            if rows is None:
                total.add_(found)
            else:
                total.index_add_(0, rows, found)
