"""``solve``: integrate a differential equation, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import positive
from flowkit.numerics.ode.adaptive import Adaptive
from flowkit.numerics.ode.control import Controller, Tolerance
from flowkit.numerics.ode.failures import report
from flowkit.numerics.ode.gradients import DiscreteAdjoint, replay
from flowkit.numerics.ode.march import Marched, empty, fixed
from flowkit.numerics.ode.parameters import Parameters, field_parameters
from flowkit.numerics.ode.runge_kutta import RungeKutta
from flowkit.numerics.ode.system import Field, Layout, System
from flowkit.numerics.ode.tableau import method as tableau_of

Adjoint = Literal["discrete", "backprop", "continuous", "reversible"]
WHO = "ode.solve"


@dataclass
class Stats:
    """What a solution took; whole numbers, or tensors (B,) per sample.

    Args:
        nfe: evaluations of the field, those that chose the first step included.
        accepted, rejected: steps.
        hits: reflections at a boundary.
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
    """

    ys: Any
    ts: Tensor
    stats: Stats


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
    on_failure: Literal["raise", "partial"] = "raise",
) -> Solution:
    """Integrate dy/dt = field(t, y) from t[0] through the other times.

    Args:
        field: callable (t, *y, *args) -> slopes, a tensor, or a tuple where ``y0`` is one. t is () , or (B,) per sample.
        y0: initial state, a tensor or a tuple of tensors; per sample each has the batch as its first axis.
        t: (T,) increasing or decreasing times, the first that of ``y0``; steps land on each.
        args: constants of the field, batch first per sample (contexts, probes); differentiable.
        method: "euler", "midpoint", "heun2", "heun3", "rk4", "bosh3", "dopri5", "tsit5", "dopri8"; or a stepper.
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
            ``field`` is or belongs to, or the leaves that one evaluation depends on.
        boundary: a domain whose ``reflect`` keeps the (first member of the) state inside.
        on_failure: "raise", or "partial": failed samples keep the last state they reached and say so in ``stats.status``.

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
    members, times = _state(y0, per_sample), _times(t, y0)
    _check_outcome(on_failure)
    system = System(field, Layout(members, per_sample), boundary)
    stepper = _stepper(method)
    state, args = system.layout.pack(members), tuple(args)
    march = _marcher(system, stepper, times, rtol, atol, steps, step, controller, max_steps)
    begin = times[:1].expand(state.shape[0])
    if len(times) == 1:
        made, states = _standing(state, times), [state]
    else:
        parameters = field_parameters(field, params, lambda: system.slope(begin, state.detach(), args))
        start = stepper.start(system, begin, state, args)
        states, made = _gradients(adjoint)(system, stepper, march, times, start, args, parameters)
    if on_failure == "raise" and may_raise(state):
        report(made, max_steps, per_sample, WHO)
    unpacked = [system.layout.unpack(stepper.value(each)) for each in states]
    ys = tuple(torch.stack(each) for each in zip(*unpacked, strict=True))
    return Solution(ys if isinstance(y0, tuple) else ys[0], times, _stats(made, per_sample))


def _gradients(adjoint: str) -> Callable[..., tuple[Any, Marched]]:
    found = {"discrete": _discrete, "backprop": _backprop}
    if adjoint not in found:
        raise ConfigError(f"{WHO}: expected adjoint to be one of {', '.join(found)}; got {adjoint!r}.")
    return found[adjoint]


def _needed(state: Tensor, args: tuple[Any, ...], parameters: Parameters, t: Tensor) -> bool:
    tensors = (state, t, *parameters.tensors, *(a for a in args if isinstance(a, Tensor)))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _backprop(system: System, stepper: Any, march: Any, t: Tensor, state: Tensor, args: tuple[Any, ...], parameters: Parameters) -> tuple[Any, Marched]:
    needed = _needed(state, args, parameters, t)
    with torch.no_grad():
        made = march(state.detach() if needed else state, args, t, needed)
    return (replay(system, stepper, made, state, args, t) if needed else made.states), made


def _discrete(system: System, stepper: Any, march: Any, t: Tensor, state: Tensor, args: tuple[Any, ...], parameters: Parameters) -> tuple[Any, Marched]:
    if not _needed(state, args, parameters, t):
        return _backprop(system, stepper, march, t, state, args, parameters)
    made: list[Marched] = []
    states = DiscreteAdjoint.apply((system, stepper, march), made, parameters, len(args), t, state, *args, *parameters.tensors)
    return states.unbind(0), made[0]


def _state(y0: Any, per_sample: bool) -> tuple[Tensor, ...]:
    members = y0 if isinstance(y0, tuple) else (y0,)
    if not members or not all(isinstance(m, Tensor) and m.is_floating_point() for m in members):
        raise ShapeError(f"{WHO}: expected y0 to be a floating-point tensor or a tuple of them; got {type(y0).__name__}.")
    if any(m.dtype != members[0].dtype or m.device != members[0].device for m in members):
        raise ShapeError(f"{WHO}: expected the members of y0 to share dtype and device; got {[(m.dtype, str(m.device)) for m in members]}.")
    if per_sample and any(m.dim() == 0 or m.shape[0] != members[0].shape[0] for m in members):
        raise ShapeError(f"{WHO}: per_sample needs the batch as first axis of every member; got shapes {[tuple(m.shape) for m in members]}.")
    return members


def _times(t: Any, y0: Any) -> Tensor:
    like = y0[0] if isinstance(y0, tuple) else y0
    times = torch.as_tensor(t, dtype=like.dtype, device=like.device) if not isinstance(t, Tensor) else t.to(like)
    if times.dim() != 1 or len(times) == 0:
        raise ShapeError(f"{WHO}: expected t to be one axis of times; got shape {tuple(times.shape)}.")
    if may_raise(times):
        ahead = times.detach().diff()
        if not bool(torch.isfinite(times).all()):
            raise ConfigError(f"{WHO}: expected finite times; got {times.tolist()}.")
        if not (bool((ahead > 0).all()) or bool((ahead < 0).all())):
            raise ConfigError(f"{WHO}: expected t strictly increasing or strictly decreasing; got {times.tolist()}. Sort it and drop repeats.")
    return times


def _stepper(method: Any) -> Any:
    return RungeKutta(tableau_of(method, WHO)) if isinstance(method, str) else method


def _marcher(
    system: System, stepper: Any, t: Tensor, rtol: float, atol: Any, steps: int | None, step: float | None, controller: str, max_steps: int
) -> Callable[[Tensor, tuple[Any, ...], Tensor, bool], Marched]:
    """What marches: on a fixed grid where ``steps`` or ``step`` ask for it, else with error control."""
    if steps is not None and step is not None:
        raise ConfigError(f"{WHO}: give steps= or step=, not both.")
    if steps is None and step is None and not stepper.adaptive:
        raise ConfigError(f"{WHO}: {stepper.name} has no error estimate: give steps= or step=, or choose dopri5, tsit5, bosh3, dopri8 or heun2.")
    if steps is None and step is None:
        tolerance = _tolerance(system.layout, rtol, atol, t)
        return Adaptive(system, stepper, tolerance, Controller(controller, stepper.order), positive(max_steps, WHO, "max_steps"), None).march
    if step is not None:
        if not (math.isfinite(step) and step > 0):
            raise ConfigError(f"{WHO}: expected a finite step > 0; got {step!r}. Its sign follows t.")
        counts = [max(1, math.ceil(float(ahead) / step * (1 - 1e-9))) for ahead in t.detach().diff().abs()]
    else:
        counts = [positive(steps, WHO, "steps")] * (len(t) - 1)
    return lambda state, args, times, keep: fixed(system, stepper, state, args, times, counts, keep)


def _tolerance(layout: Layout, rtol: float, atol: Any, like: Tensor) -> Tolerance:
    each = list(atol) if isinstance(atol, Sequence) else [atol]
    if not (rtol >= 0 and math.isfinite(rtol)) or any(not a >= 0 for a in each) or (rtol == 0 and any(a == 0 for a in each)):
        raise ConfigError(f"{WHO}: expected rtol >= 0 and atol >= 0, not both zero; got rtol={rtol!r}, atol={atol!r}.")
    rtol = max(rtol, 10 * torch.finfo(like.dtype).eps)
    if len(each) == 1:
        return Tolerance(rtol, float(each[0]), layout.width)
    if len(each) != len(layout.sizes):
        raise ConfigError(f"{WHO}: expected one atol, or one for each of the {len(layout.sizes)} members of y0; got {len(each)}.")
    columns = torch.cat([torch.full((size,), float(a), dtype=like.dtype, device=like.device) for a, size in zip(each, layout.sizes, strict=True)])
    return Tolerance(rtol, columns, sum(size for a, size in zip(each, layout.sizes, strict=True) if math.isfinite(a)))


def _standing(state: Tensor, t: Tensor) -> Marched:
    return empty(state, t)


def _stats(made: Marched, per_sample: bool) -> Stats:
    found = (made.evaluations, made.accepted, made.rejected, made.hits, made.status, made.reached)
    return Stats(*(found if per_sample else (value[0].item() for value in found)))


def _check_outcome(on_failure: str) -> None:
    if on_failure not in ("raise", "partial"):
        raise ConfigError(f"{WHO}: expected on_failure to be 'raise' or 'partial'; got {on_failure!r}.")
