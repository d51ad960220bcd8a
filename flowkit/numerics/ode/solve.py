"""``solve``: integrate a differential equation, with gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.errors import ConfigError
from flowkit.numerics.ode.arguments import WHO, constants_of, march_of, members_of, stepper_of, times_of
from flowkit.numerics.ode.continuous_adjoint import AdjointOptions
from flowkit.numerics.ode.dense import Interpolant
from flowkit.numerics.ode.differentiate import Problem, differentiated
from flowkit.numerics.ode.failures import DONE, report
from flowkit.numerics.ode.march import Keep, March, Marched, empty
from flowkit.numerics.ode.parameters import field_parameters
from flowkit.numerics.ode.system import Field, Layout, System
from flowkit.numerics.ode.torchdiffeq_backend import PREFIX, solve_by_torchdiffeq

Adjoint = Literal["discrete", "backprop", "continuous", "reversible"]


@dataclass
class Stats:
    """What a solution took; numbers, tensors () on accelerators, or tensors (B,) per sample.

    Args:
        nfe: evaluations of the field, those that chose the first step and made the interpolant included, those that differentiate left out;
            per sample those that its own steps needed.
        accepted, rejected: steps.
        hits: reflections at a boundary, over all samples where these are solved jointly.
        status: 0 done, 1 too many steps, 2 step too small, 3 not finite.
        reached: time that each sample reached.
    """

    nfe: Any
    accepted: Any
    rejected: Any
    hits: Any
    status: Any
    reached: Any


@dataclass
class Solution:
    """A solution at the output times.

    Args:
        ys: states (T, *shape), a tensor or a tuple of them as ``y0`` was.
        ts: output times (T,).
        stats: what it took.
        interpolant: with ``dense``, a callable t -> state.
    """

    ys: Any
    ts: Tensor
    stats: Stats
    interpolant: Interpolant | None = None


def solve(
    field: Field,
    y0: Tensor | tuple[Tensor, ...],
    t: Tensor | Sequence[float],
    *,
    args: Sequence[Any] = (),
    method: Any = "dopri5",
    rtol: float = 1e-5,
    atol: float | Sequence[float] = 1e-5,
    adjoint: Adjoint = "discrete",
    per_sample: bool = False,
    steps: int | None = None,
    step: float | None = None,
    controller: str = "I",
    max_steps: int = 10_000,
    params: nn.Module | Sequence[Tensor] | None = None,
    boundary: Any = None,
    dense: bool = False,
    adjoint_options: AdjointOptions | None = None,
    on_failure: Literal["raise", "partial"] = "raise",
) -> Solution:
    """Integrate dy/dt = field(t, y) from t[0] through the other times.

    Args:
        field: callable (t, *y, *args) -> slopes, a tensor, or a tuple where ``y0`` is one. t is () , or (B,) per sample.
        y0: initial state, a tensor or a tuple of tensors; per sample each has the batch as its first axis.
        t: (T,) increasing or decreasing times, the first that of ``y0``; steps land on each.
        args: constants of the field, batch first per sample (contexts, probes); differentiable.
        method: "euler", "midpoint", "heun2", "heun3", "rk4", "bosh3", "dopri5", "tsit5", "dopri8", "alf", "reversible_heun", a stepper
            such as ``Reversible("rk4")``, or "torchdiffeq:<name>" for that library's solver of the name, jointly.
        rtol, atol: tolerances of the methods with an error estimate; ``atol`` may be one number per member of the state,
            ``inf`` to leave a member out of the error's norm. A rtol below ten roundings of the dtype counts as ten.
        adjoint: "discrete", the exact gradient of the steps from stored states (default); "backprop", autograd through every
            step, which can be differentiated again; "continuous", the adjoint equation solved backward; "reversible", states
            reconstructed by a reversible method.
        per_sample: a step size for each sample, whose solution then does not depend on the others.
        steps: fixed steps between output times, also for methods with an error estimate.
        step: size of fixed steps, in place of their number.
        controller: "I", "PI" or "PID".
        max_steps: attempts per sample between two output times.
        params: what the field's gradients go to besides ``y0``, ``args`` and ``t``: a module, or tensors; default the module that
            ``field`` is or belongs to, and the leaves that evaluations at the first and the last time depend on.
        boundary: a domain whose ``reflect`` keeps the (first member of the) state inside.
        dense: also return ``Solution.interpolant``, the solution at any time.
        adjoint_options: of the continuous adjoint's backward solve.
        on_failure: "raise", or "partial": failed samples keep the last state they reached and say so in ``stats.status``. Where values are
            not looked at (on accelerators, unless ``flowkit.checks()`` asks for it) "raise" makes failed samples NaN instead.

    Returns:
        ``Solution``.

    Raises:
        ConfigError, ShapeError: arguments that do not fit. IntegrationError: too many steps, or a step too small.
        NonFiniteError: the field returned NaN or infinity.

    Reference: Hairer, Norsett and Wanner (1993), Solving ordinary differential equations I.

    Example:
        >>> import torch
        >>> from flowkit.numerics.ode import solve
        >>> round(solve(lambda t, y: -y, torch.ones(1), (0.0, 1.0), rtol=1e-7, atol=1e-7).ys[-1].item(), 5)
        0.36788
    """
    if on_failure not in ("raise", "partial"):
        raise ConfigError(f"{WHO}: expected on_failure to be 'raise' or 'partial'; got {on_failure!r}.")
    members = members_of(y0, per_sample)
    times = times_of(t, members[0])
    system, constants = System(field, Layout(members, per_sample), boundary), constants_of(args, members, per_sample)
    state = system.layout.pack(members)
    if isinstance(method, str) and method.startswith(PREFIX):
        states, made = solve_by_torchdiffeq(system, method, state, constants, times, rtol, atol, steps, step)
        reported = _reported(states, made, max_steps, per_sample, on_failure)
        return _solution(system, reported, made, times, isinstance(y0, tuple), per_sample)
    stepper, controls = stepper_of(method), (rtol, atol, steps, step, controller, max_steps)
    march = march_of(system, stepper, times, *controls)
    problem = Problem(system, stepper, _recording(march) if dense else march, times)
    begin, interpolant = times[:1].expand(state.shape[0]), None
    if len(times) == 1:
        return _solution(system, [state], empty(state, times), times, isinstance(y0, tuple), per_sample)
    fixed = tuple(a.detach() if isinstance(a, Tensor) else a for a in constants)
    ends = (begin.detach(), times[-1:].detach().expand(state.shape[0]))
    parameters = field_parameters(field, params, [partial(system.slope, end, state.detach(), fixed) for end in ends])
    start = stepper.start(system, begin, state, constants)
    backward = partial(_solve_back, stepper, controls, adjoint_options or AdjointOptions())
    states, made = differentiated(adjoint, problem, backward)(start, constants, parameters)
    made.evaluations += parameters.evaluations + stepper.start_evaluations
    if dense:
        interpolant = Interpolant(system, stepper, constants, made)
        made.evaluations += interpolant.evaluations
    reported = _reported([stepper.value(each) for each in states], made, max_steps, per_sample, on_failure)
    return _solution(system, reported, made, times, isinstance(y0, tuple), per_sample, interpolant)


def _recording(march: March) -> March:
    """A march that keeps the states of its strides whatever is asked for."""

    def marched(state: Tensor, args: tuple[Any, ...], t: Tensor, keep: Keep) -> Marched:
        return march(state, args, t, "states")

    return marched


def _reported(states: Sequence[Tensor], made: Marched, max_steps: int, per_sample: bool, on_failure: str) -> Sequence[Tensor]:
    """The states, after an error for rows that failed; these become NaN where raising would need a value that cannot be looked at."""
    if on_failure == "partial":
        return states
    if may_raise(states[0]):
        report(made, max_steps, per_sample, WHO)
        return states
    failed = (made.status != DONE).unsqueeze(1)
    return [states[0], *(state.masked_fill(failed, math.nan) for state in states[1:])]


def _solution(system: System, states: Any, made: Marched, times: Tensor, several: bool, per_sample: bool, interpolant: Any = None) -> Solution:
    ys = tuple(torch.stack(each) for each in zip(*(system.layout.unpack(state) for state in states), strict=True))
    found = (made.evaluations, made.accepted, made.rejected, made.hits, made.status, made.reached)
    at_hand = times.device.type == "cpu"  # elsewhere reading a number would wait for the device
    stats = Stats(*(found if per_sample else (value[0].item() if at_hand else value[0] for value in found)))
    return Solution(ys if several else ys[0], times, stats, interpolant)


def _solve_back(stepper: Any, forward: tuple[Any, ...], options: AdjointOptions, field: Any, y0: tuple[Tensor, ...], t: Tensor) -> tuple[Tensor, ...]:
    """The backward equation of the continuous adjoint, from its state at t[0] to that at t[1]."""
    rtol, atol, steps, step, controller, max_steps = forward
    own = stepper if options.method is None else stepper_of(options.method)
    allowed = options.atol if options.atol is not None else min(atol) if isinstance(atol, Sequence) else atol
    counted = [allowed, allowed, *([math.inf if options.seminorm else allowed] * (len(y0) - 2))]
    fixed_steps = steps if options.steps is None else options.steps
    solution = solve(
        field, y0, t, method=own, rtol=rtol if options.rtol is None else options.rtol, atol=counted, steps=fixed_steps,
        step=step if fixed_steps is None else None, controller=controller, max_steps=max_steps, adjoint="backprop", params=(),
    )  # fmt: skip
    return tuple(member[-1] for member in solution.ys)
