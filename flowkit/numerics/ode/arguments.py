"""The arguments of ``solve``, checked and turned into what it works with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.checks import may_raise
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import positive
from flowkit.numerics.ode.adaptive import Adaptive
from flowkit.numerics.ode.control import Controller, Tolerance
from flowkit.numerics.ode.joint import Joint
from flowkit.numerics.ode.march import March, fixed
from flowkit.numerics.ode.reversible import AsynchronousLeapfrog, ReversibleHeun
from flowkit.numerics.ode.runge_kutta import RungeKutta
from flowkit.numerics.ode.system import Layout, System
from flowkit.numerics.ode.tableau import method as tableau_of

WHO = "ode.solve"
_OWN = {"alf": AsynchronousLeapfrog, "reversible_heun": ReversibleHeun}


def members_of(y0: Any, per_sample: bool) -> tuple[Tensor, ...]:
    """The members of an initial state."""
    members = y0 if isinstance(y0, tuple) else (y0,)
    if not members or not all(isinstance(m, Tensor) and m.is_floating_point() for m in members):
        raise ShapeError(f"{WHO}: expected y0 to be a floating-point tensor or a tuple of them; got {type(y0).__name__}.")
    if any(m.dtype != members[0].dtype or m.device != members[0].device for m in members):
        raise ShapeError(f"{WHO}: expected the members of y0 to share dtype and device; got {[(m.dtype, str(m.device)) for m in members]}.")
    if per_sample and any(m.dim() == 0 or m.shape[0] != members[0].shape[0] for m in members):
        raise ShapeError(f"{WHO}: per_sample needs the batch as first axis of every member; got shapes {[tuple(m.shape) for m in members]}.")
    return members


def constants_of(args: Sequence[Any], members: tuple[Tensor, ...], per_sample: bool) -> tuple[Any, ...]:
    """The constants of a field; per sample, tensors have the batch as first axis."""
    if per_sample:
        for i, a in enumerate(args):
            if isinstance(a, Tensor) and (a.dim() == 0 or a.shape[0] != members[0].shape[0]):
                raise ShapeError(f"{WHO}: per_sample needs the batch {members[0].shape[0]} as first axis of args[{i}]; got shape {tuple(a.shape)}. Expand it.")
    return tuple(args)


def times_of(t: Any, like: Tensor) -> Tensor:
    """Output times (T,), strictly ordered, in the dtype of the state."""
    times = t.to(like) if isinstance(t, Tensor) else torch.as_tensor(t, dtype=like.dtype, device=like.device)
    if times.dim() != 1 or len(times) == 0:
        raise ShapeError(f"{WHO}: expected t to be one axis of times; got shape {tuple(times.shape)}.")
    if may_raise(times):
        ahead = times.detach().diff()
        if not bool(torch.isfinite(times).all()):
            raise ConfigError(f"{WHO}: expected finite times; got {times.tolist()}.")
        if not (bool((ahead > 0).all()) or bool((ahead < 0).all())):
            raise ConfigError(f"{WHO}: expected t strictly increasing or strictly decreasing; got {times.tolist()}. Sort it and drop repeats.")
    return times


def stepper_of(method: Any) -> Any:
    """The stepper of a name; a stepper itself."""
    if not isinstance(method, str):
        return method
    return _OWN[method]() if method in _OWN else RungeKutta(tableau_of(method, WHO, _OWN))


def march_of(system: System, stepper: Any, t: Tensor, rtol: float, atol: Any, steps: int | None, step: float | None, controller: str, max_steps: int) -> March:
    """What marches: on a fixed grid where ``steps`` or ``step`` ask for it, else with error control."""
    if system.boundary is not None and stepper.reversible:
        raise ConfigError(f"{WHO}: {stepper.name} knows no boundary, its states are not folded. Use an explicit method such as 'heun3' or 'dopri5'.")
    counts = counts_of(t, steps, step)
    if counts is None and not stepper.adaptive:
        raise ConfigError(f"{WHO}: {stepper.name} has no error estimate: give steps= or step=, or choose dopri5, tsit5, bosh3, dopri8 or heun2.")
    if counts is None:
        tolerance, control = tolerance_of(system.layout, rtol, atol, t), Controller(controller, stepper.order, WHO)
        most = positive(max_steps, WHO, "max_steps")
        if not system.layout.per_sample and system.boundary is None and isinstance(stepper, RungeKutta):
            return Joint(system, stepper, tolerance, control, most).march
        return Adaptive(system, stepper, tolerance, control, most).march
    return lambda state, args, times, keep: fixed(system, stepper, state, args, times, counts, keep)


def counts_of(t: Tensor, steps: int | None, step: float | None) -> list[int] | None:
    """Numbers of equal steps between output times; None where neither ``steps`` nor ``step`` asks for a fixed grid."""
    if steps is not None and step is not None:
        raise ConfigError(f"{WHO}: give steps= or step=, not both.")
    if steps is not None:
        return [positive(steps, WHO, "steps")] * (len(t) - 1)
    if step is None:
        return None
    if not (math.isfinite(step) and step > 0):
        raise ConfigError(f"{WHO}: expected a finite step > 0; got {step!r}. Its sign follows t.")
    return [max(1, math.ceil(float(ahead) / step * (1 - 1e-9))) for ahead in t.detach().diff().abs()]


def tolerance_of(layout: Layout, rtol: float, atol: Any, like: Tensor) -> Tolerance:
    """The tolerances of a state, checked; ``atol`` spread over the columns where the members have their own."""
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


def check_solver(method: str, steps: int | None, adjoint: str, rtol: float, atol: float, who: str) -> None:
    """Check what a map keeps for its solves: the method's name, its adjoint and tolerances."""
    if not isinstance(method, str):
        raise ConfigError(f"{who}: expected solver to be the name of a method; got {method!r}.")
    external = method.startswith("torchdiffeq:")
    stepper = None if external else _OWN[method]() if method in _OWN else RungeKutta(tableau_of(method, who, _OWN))
    if stepper is not None and steps is None and not stepper.adaptive:
        raise ConfigError(f"{who}: solver {method!r} has no error estimate: give steps=, or choose dopri5, tsit5, bosh3, dopri8 or heun2.")
    if adjoint not in ("discrete", "backprop", "continuous", "reversible"):
        raise ConfigError(f"{who}: expected adjoint to be discrete, backprop, continuous or reversible; got {adjoint!r}.")
    if adjoint == "reversible" and not getattr(stepper, "reversible", False):
        raise ConfigError(f"{who}: solver {method!r} cannot be taken back. Use 'alf' or 'reversible_heun' with adjoint='reversible'.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(f"{who}: expected {name} to be a finite number >= 0; got {value!r}.")
