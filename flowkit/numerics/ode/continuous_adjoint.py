"""Gradients by the adjoint equation, solved backward in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.numerics.ode.march import Marched
from flowkit.numerics.ode.parameters import Parameters
from flowkit.numerics.ode.second_derivatives import differentiate_again
from flowkit.numerics.ode.system import System


@dataclass(frozen=True)
class AdjointOptions:
    """How the backward equation is solved; None: as the forward one.

    Args:
        method, rtol, atol, steps: of the backward solve.
        seminorm: leave the integrals of parameters and constants out of the error's norm: nothing depends on them.
    """

    method: Any = None
    rtol: float | None = None
    atol: float | None = None
    steps: int | None = None
    seminorm: bool = True


class ContinuousAdjoint(torch.autograd.Function):
    """da/dt = -(df/dy)' a, from the last time to the first, with the state solved backward beside it and int a' df/dp dt for parameters p.

    Memory does not grow with the steps. The gradient is that of the exact solution up to the tolerance, not that of the steps taken. The
    backward equation is solved jointly for the batch.

    Reference: Chen et al. (2018), Neural Ordinary Differential Equations, arXiv:1806.07366; Kidger et al. (2021), "Hey, that's not an
    ODE": faster ODE adjoints via seminorms, arXiv:2009.09457.
    """

    @staticmethod
    def forward(ctx: Any, solver: tuple[Any, ...], made: list[Marched], parameters: Parameters, count: int, t: Tensor, state: Tensor, *inputs: Any) -> Tensor:
        """solver: system, stepper, march and ``backward(field, y0, t)``; inputs: ``count`` constants, then parameters. Returns (T, R, N)."""
        args, (system, stepper, march, backward) = inputs[:count], solver
        marched = march(state, args, t, None)
        made.append(marched)
        states = torch.stack(marched.states)
        ctx.problem = (system, stepper, march)
        ctx.system, ctx.backward_solve, ctx.count, ctx.parameters = system, backward, count, parameters
        ctx.plain = tuple(None if isinstance(a, Tensor) else a for a in args)
        ctx.save_for_backward(t, state, states, *(a if isinstance(a, Tensor) else None for a in args), *inputs[count:])
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        t, begin, states, *rest = ctx.saved_tensors
        args = tuple(plain if saved is None else saved for saved, plain in zip(rest[: ctx.count], ctx.plain, strict=True))
        if torch.is_grad_enabled():  # the gradient is to be differentiated itself: that of the steps taken
            return None, None, None, None, *differentiate_again(ctx.problem, ctx.parameters, t, begin, args, rest[ctx.count :], grad)
        wanted = ctx.needs_input_grad[4:]
        leaves = ctx.parameters.leaves(rest[ctx.count :])
        with ctx.parameters.installed(leaves):
            equation = _Backward(ctx.system, args, leaves, wanted)
            adjoint = grad[-1]
            sums = [torch.zeros_like(source) for source in equation.sources]
            times = torch.zeros_like(t)
            for k in range(len(t) - 1, 0, -1):
                times[k] += (equation.slope(t[k], states[k]) * grad[k]).sum()
                _, adjoint, *sums = ctx.backward_solve(equation, (states[k], adjoint, *sums), torch.stack([t[k], t[k - 1]]))
                adjoint = adjoint + grad[k - 1]
            # moving the first time: the solution starts later from the same state; the outputs' own shares were counted above
            times[0] = -(equation.slope(t[0], states[0]) * (adjoint - grad[0])).sum()
        found = iter(sums)
        of_args = [next(found) if w else None for w in wanted[2 : 2 + ctx.count]]
        of_parameters = [next(found) if w else None for w in wanted[2 + ctx.count :]]
        return None, None, None, None, times if wanted[0] else None, adjoint if wanted[1] else None, *of_args, *of_parameters


class _Backward:
    """(y, a, integrals) -> their slopes.

    Args:
        system: the forward equation.
        args, leaves: its constants and parameters; wanted: which inputs need gradients, t and the state first.
    """

    def __init__(self, system: System, args: tuple[Any, ...], leaves: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.system = system
        self.args = tuple(a.detach().requires_grad_(w) if isinstance(a, Tensor) else a for a, w in zip(args, wanted[2 : 2 + len(args)], strict=True))
        self.sources = [a for a, w in zip(self.args, wanted[2:], strict=False) if w] + [p for p, w in zip(leaves, wanted[2 + len(args) :], strict=True) if w]

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        return self.system.slope(t.expand(len(y)), y, self.args)

    def __call__(self, t: Tensor, y: Tensor, a: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            point = y.detach().requires_grad_()
            f = self.system.slope(t.detach().expand(len(y)), point, self.args)
            found = torch.autograd.grad(f, [point, *self.sources], -a, allow_unused=True, materialize_grads=True) if f.requires_grad else None
        if found is None:
            return (f, torch.zeros_like(a), *(torch.zeros_like(s) for s in sums))
        return (f.detach(), *found)
