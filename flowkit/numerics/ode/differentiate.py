"""Which gradient a solution gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowkit.core.checks import runs_eagerly
from flowkit.core.errors import ConfigError
from flowkit.numerics.ode.arguments import WHO
from flowkit.numerics.ode.continuous_adjoint import ContinuousAdjoint
from flowkit.numerics.ode.gradients import DiscreteAdjoint
from flowkit.numerics.ode.march import March, Marched
from flowkit.numerics.ode.parameters import Parameters
from flowkit.numerics.ode.replay import replay
from flowkit.numerics.ode.system import System

Differentiated = Callable[[Tensor, tuple[Any, ...], Parameters], tuple[Any, Marched]]


@dataclass
class Problem:
    """An equation, its method, what marches it, and the output times (T,)."""

    system: System
    stepper: Any
    march: March
    times: Tensor

    def needs_gradient(self, state: Tensor, args: tuple[Any, ...], parameters: Parameters) -> bool:
        """Whether anything that the solution depends on wants one."""
        tensors = (state, self.times, *parameters.tensors, *(a for a in args if isinstance(a, Tensor)))
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def differentiated(adjoint: str, problem: Problem, backward: Callable[..., Any]) -> Differentiated:
    """What solves and differentiates; ``backward`` solves the adjoint equation."""
    stepper = problem.stepper
    found: dict[str, Differentiated] = {
        "backprop": partial(_backprop, problem),
        "continuous": partial(_adjoint, problem, ContinuousAdjoint, (problem.system, stepper, problem.march, backward)),
        "discrete": partial(_adjoint, problem, DiscreteAdjoint, (problem.system, stepper, problem.march, "discrete")),
        "reversible": partial(_adjoint, problem, DiscreteAdjoint, (problem.system, stepper, problem.march, "reversible")),
    }
    if adjoint not in found:
        raise ConfigError(f"{WHO}: expected adjoint to be one of {', '.join(found)}; got {adjoint!r}.")
    if adjoint == "reversible" and not stepper.reversible:
        raise ConfigError(f"{WHO}: {stepper.name} cannot be taken back. Use method='alf', 'reversible_heun' or Reversible({stepper.name!r}).")
    if adjoint == "continuous" and (stepper.reversible or problem.system.boundary is not None):
        raise ConfigError(f"{WHO}: the continuous adjoint needs an explicit Runge-Kutta method and no boundary. Use adjoint='discrete'.")
    return found[adjoint]


def _backprop(problem: Problem, state: Tensor, args: tuple[Any, ...], parameters: Parameters) -> tuple[Any, Marched]:
    """By autograd through the steps once more; without gradients only the march."""
    needed = problem.needs_gradient(state, args, parameters)
    with torch.no_grad():
        made = problem.march(state.detach() if needed else state, args, problem.times, "times" if needed else None)
    return (replay(problem.system, problem.stepper, made, state, args, problem.times) if needed else made.states), made


def _adjoint(problem: Problem, function: Any, solver: tuple[Any, ...], state: Tensor, args: tuple[Any, ...], parameters: Parameters) -> tuple[Any, Marched]:
    """By an adjoint of its own, where gradients are asked for and plain autograd runs."""
    if not runs_eagerly() or not problem.needs_gradient(state, args, parameters):
        return _backprop(problem, state, args, parameters)
    made: list[Marched] = []
    states = function.apply(solver, made, parameters, len(args), problem.times, state, *args, *parameters.tensors)
    return states.unbind(0), made[0]
