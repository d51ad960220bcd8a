"""torchdiffeq's calls, served by ``solve``: change the import and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.numerics.ode.continuous_adjoint import AdjointOptions
from flowkit.numerics.ode.solve import solve
from flowkit.numerics.ode.tableau import TABLEAUS

_NAMES = {"adaptive_heun": "heun2", None: "dopri5"}
_FIXED = frozenset(("euler", "midpoint", "heun2", "heun3", "rk4"))


def odeint(func: Any, y0: Any, t: Tensor, *, rtol: float = 1e-7, atol: float = 1e-9, method: str | None = None, options: dict[str, Any] | None = None) -> Any:
    """torchdiffeq.odeint: the solution at the times t (T, *shape), differentiated through the solver's steps.

    Args:
        func: (t, y) -> dy/dt; y0: tensor or tuple of tensors; t: (T,) monotonic times.
        rtol, atol: tolerances.
        method: "dopri5" (default), "dopri8", "tsit5", "bosh3", "adaptive_heun", "euler", "midpoint", "heun2", "heun3", "rk4"; the last five
            step from time to time of t, or by ``options["step_size"]``.
        options: "step_size", "max_num_steps".

    Reference: Chen (2018), torchdiffeq, https://github.com/rtqichen/torchdiffeq.
    """
    return _solve(func, y0, t, rtol, atol, method, options, adjoint="backprop")


def odeint_adjoint(
    func: nn.Module,
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Sequence[Tensor] | None = None,
) -> Any:
    """torchdiffeq.odeint_adjoint: gradients by the adjoint equation.

    Args:
        func: a module, or any callable with ``adjoint_params``.
        adjoint_rtol, adjoint_atol, adjoint_method: of the backward solve, default the forward's.
        adjoint_options: "norm": "seminorm" leaves parameters out of the error's norm.
        adjoint_params: what gradients go to besides y0 and t; default the module's parameters.
    """
    if not isinstance(func, nn.Module) and adjoint_params is None:
        raise ConfigError("odeint_adjoint: expected func to be a module, or adjoint_params; got a plain callable. Pass adjoint_params=().")
    own = {key: value for key, value in (adjoint_options or {}).items() if key != "norm"}
    if own:
        raise ConfigError(f"odeint_adjoint: adjoint_options {sorted(own)} have no counterpart. Use norm='seminorm', or flowkit.numerics.ode.solve.")
    seminorm = (adjoint_options or {}).get("norm") == "seminorm"
    backward = AdjointOptions(_name(adjoint_method) if adjoint_method else None, adjoint_rtol, adjoint_atol, seminorm=seminorm)
    params = func if adjoint_params is None else tuple(adjoint_params)
    return _solve(func, y0, t, rtol, atol, method, options, adjoint="continuous", adjoint_options=backward, params=params)


def _solve(func: Any, y0: Any, t: Tensor, rtol: float, atol: float, method: str | None, options: dict[str, Any] | None, **more: Any) -> Any:
    options = dict(options or {})
    step, most = options.pop("step_size", None), options.pop("max_num_steps", 2**31 - 1)
    if options:
        raise ConfigError(f"odeint: options {sorted(options)} have no counterpart. Use step_size, max_num_steps, or flowkit.numerics.ode.solve.")
    many = isinstance(y0, tuple)

    def field(time: Tensor, *y: Tensor) -> Any:
        return func(time, y if many else y[0])

    by_time = method in _FIXED and step is None
    controls: dict[str, Any] = {"steps": 1} if by_time else {"step": float(step)} if step is not None else {}
    times = t if isinstance(t, Tensor) else torch.as_tensor(t)
    if isinstance(func, nn.Module) and "params" not in more:
        more["params"] = func
    return solve(field, y0, times, method=_name(method), rtol=rtol, atol=atol, max_steps=most, **controls, **more).ys


def _name(method: str | None) -> str:
    name = _NAMES.get(method, method)
    if name not in TABLEAUS:
        known = sorted({*TABLEAUS, "adaptive_heun"})
        raise ConfigError(f"odeint: expected method to be one of {', '.join(known)}; got {method!r}. torchdiffeq's own: solve(method='torchdiffeq:{method}').")
    return str(name)
