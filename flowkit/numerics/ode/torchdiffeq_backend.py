"""torchdiffeq's solvers behind ``solve``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.numerics.ode.arguments import counts_of, tolerance_of
from flowkit.numerics.ode.failures import DONE, NOT_FINITE
from flowkit.numerics.ode.march import Marched, empty, nodes
from flowkit.numerics.ode.system import System

PREFIX = "torchdiffeq:"
_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")


def solve_by_torchdiffeq(
    system: System, method: str, state: Tensor, args: tuple[Any, ...], t: Tensor, rtol: float, atol: Any, steps: int | None, step: float | None
) -> tuple[list[Tensor], Marched]:
    """The states at the output times, by ``torchdiffeq.odeint`` on the whole state at once, with its own gradients.

    Fixed steps are the same as for flowkit's own methods. A member with an infinite ``atol`` counts as one without error.

    Raises:
        ConfigError: the library is not installed; an option that it does not have.

    Reference: Chen (2018), torchdiffeq, https://github.com/rtqichen/torchdiffeq.
    """
    try:
        import torchdiffeq  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(f"ode.solve: method {method!r} needs the package torchdiffeq: pip install torchdiffeq.") from None
    if system.layout.per_sample and system.layout.rows > 1:
        raise ConfigError("ode.solve: torchdiffeq has one step size for the batch. Pass per_sample=False, or use a method of flowkit's own.")
    if system.boundary is not None:
        raise ConfigError("ode.solve: torchdiffeq knows no boundary. Use a method of flowkit's own.")
    calls = 0

    def slope(time: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return system.slope(time.to(y.dtype).expand(len(y)), y, args)

    counts, options = counts_of(t, steps, step), None
    if counts is not None:
        if method.removeprefix(PREFIX) not in _FIXED:
            raise ConfigError(f"ode.solve: {method} takes no fixed steps. Drop steps= and step=, or use {', '.join(PREFIX + name for name in _FIXED)}.")
        grid = torch.cat([t[:1], *(nodes(t, k, count)[1:] for k, count in enumerate(counts, start=1))])
        options = {"grid_constructor": lambda *_: grid}
    allowed = tolerance_of(system.layout, rtol, atol, t).atol if isinstance(atol, Sequence) else atol
    states = torchdiffeq.odeint(slope, state, t, rtol=rtol, atol=allowed, method=method.removeprefix(PREFIX), options=options)
    made = empty(state.detach(), t.detach())
    made.evaluations += calls
    made.status = torch.where(torch.isfinite(states[-1].detach()).all(dim=1), DONE, NOT_FINITE)
    made.reached = t.detach()[-1:].expand(state.shape[0])
    return list(states), made
