"""Reversible methods: steps that can be taken back exactly, so that a gradient needs no stored states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.numerics.ode.runge_kutta import RungeKutta, Step
from flowkit.numerics.ode.system import System
from flowkit.numerics.ode.tableau import method as tableau_of


class _Carrying:
    """A stepper whose state carries more than the solution: (y, ...) side by side."""

    reversible, adaptive, uses_slope = True, True, False
    order, name, parts, start_evaluations = 2, "", 2, 1

    def evaluations(self, given_first: bool, wants_error: bool = True) -> int:
        """Slopes that a step evaluates."""
        return 1

    def value(self, state: Tensor) -> Tensor:
        """The solution (r, N) within a state (r, parts N)."""
        return state[:, : state.shape[1] // self.parts]


class AsynchronousLeapfrog(_Carrying):
    """(z, v): z_half = z + h v / 2; u = f(t + h/2, z_half); v' = v + 2 eta (u - v); z' = z_half + h v' / 2. Order 2, error h (u - v).

    Args:
        eta: 1 for the plain method; below, in (1/2, 1), damped.

    Reference: Mutze (2013), An asynchronous leapfrog method; Zhuang et al. (2021), MALI, arXiv:2102.04668.
    """

    name = "alf"

    def __init__(self, eta: float = 1.0) -> None:
        if not 0.5 < eta <= 1:
            raise ConfigError(f"AsynchronousLeapfrog: expected 0.5 < eta <= 1; got {eta!r}.")
        self.eta = eta

    def start(self, system: System, t: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
        """(y, f(t, y))."""
        return torch.cat([y, system.slope(t, y, args)], dim=1)

    def step(self, system: System, t: Tensor, h: Tensor, state: Tensor, args: Sequence[Any], first: Tensor | None = None, wants_error: bool = False) -> Step:
        """From t to t + h."""
        z, v = state.chunk(2, dim=1)
        column = h.unsqueeze(1)
        half = torch.addcmul(z, v, column, value=0.5)
        u = system.slope(t + 0.5 * h, half, args)
        v1 = torch.add(v, u - v, alpha=2 * self.eta)
        z1 = torch.addcmul(half, v1, column, value=0.5)
        return Step(torch.cat([z1, v1], dim=1), (u - v) * column, v1)

    def undo(self, system: System, t: Tensor, h: Tensor, state: Tensor, args: Sequence[Any]) -> Tensor:
        """The state at t of the step that ended in ``state`` at t + h."""
        z1, v1 = state.chunk(2, dim=1)
        column = h.unsqueeze(1)
        half = torch.addcmul(z1, v1, column, value=-0.5)
        u = system.slope(t + 0.5 * h, half, args)
        v = 2 * u - v1 if self.eta == 1 else (v1 - 2 * self.eta * u) / (1 - 2 * self.eta)
        return torch.cat([torch.addcmul(half, v, column, value=-0.5), v], dim=1)


class ReversibleHeun(_Carrying):
    """(y, y^, f): y^' = 2 y - y^ + h f; f' = f(t + h, y^'); y' = y + h (f + f') / 2. Order 2, error h (f' - f) / 2.

    Its stability region is small: the segment [-i, i] of h lambda.

    Reference: Kidger et al. (2021), Efficient and accurate gradients for neural SDEs, arXiv:2105.13493.
    """

    name, parts = "reversible_heun", 3

    def start(self, system: System, t: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
        """(y, y, f(t, y))."""
        return torch.cat([y, y, system.slope(t, y, args)], dim=1)

    def step(self, system: System, t: Tensor, h: Tensor, state: Tensor, args: Sequence[Any], first: Tensor | None = None, wants_error: bool = False) -> Step:
        """From t to t + h."""
        y, shadow, f = state.chunk(3, dim=1)
        column = h.unsqueeze(1)
        shadow1 = torch.addcmul(2 * y - shadow, f, column)
        f1 = system.slope(t + h, shadow1, args)
        y1 = torch.addcmul(y, f + f1, column, value=0.5)
        return Step(torch.cat([y1, shadow1, f1], dim=1), (f1 - f) * (0.5 * column), f1)

    def undo(self, system: System, t: Tensor, h: Tensor, state: Tensor, args: Sequence[Any]) -> Tensor:
        """The state at t of the step that ended in ``state`` at t + h."""
        y1, shadow1, f1 = state.chunk(3, dim=1)
        column = h.unsqueeze(1)
        shadow = torch.addcmul(2 * y1 - shadow1, f1, column, value=-1)
        f = system.slope(t, shadow, args)
        return torch.cat([torch.addcmul(y1, f + f1, column, value=-0.5), shadow, f], dim=1)


class Reversible(_Carrying):
    """Any explicit method made reversible: y' = lam y + (1 - lam) z + P_h(t, z); z' = z - P_{-h}(t + h, y'), P_h the method's increment.

    Keeps the method's order and a stability region of its own; twice the evaluations. Rounding grows like lam^-steps.

    Args:
        method: name of an explicit method, such as "rk4".
        lam: coupling, in (0, 1).

    Reference: McCallum and Foster (2024), Efficient, accurate and stable gradients for neural ODEs, arXiv:2410.11648.
    """

    start_evaluations = 0

    def __init__(self, method: str = "rk4", lam: float = 0.999) -> None:
        if not 0 < lam < 1:
            raise ConfigError(f"Reversible: expected 0 < lam < 1; got {lam!r}.")
        self.inner, self.lam = RungeKutta(tableau_of(method, "Reversible")), lam
        self.order, self.adaptive, self.name = self.inner.order, self.inner.adaptive, f"reversible {method}"

    def evaluations(self, given_first: bool, wants_error: bool = True) -> int:
        """Slopes that a step evaluates: the method's, twice; the error estimate's own stage once."""
        return self.inner.evaluations(False, wants_error) + self.inner.evaluations(False, False)

    def start(self, system: System, t: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
        """(y, y)."""
        return torch.cat([y, y], dim=1)

    def _increment(self, system: System, t: Tensor, h: Tensor, y: Tensor, args: Sequence[Any], wants_error: bool = False) -> tuple[Tensor, Tensor | None]:
        step = self.inner.step(system, t, h, y, args, wants_error=wants_error)
        return step.y - y, step.error

    def step(self, system: System, t: Tensor, h: Tensor, state: Tensor, args: Sequence[Any], first: Tensor | None = None, wants_error: bool = False) -> Step:
        """From t to t + h."""
        y, z = state.chunk(2, dim=1)
        increment, error = self._increment(system, t, h, z, args, wants_error)
        y1 = self.lam * y + (1 - self.lam) * z + increment
        back, _ = self._increment(system, t + h, -h, y1, args)
        return Step(torch.cat([y1, z - back], dim=1), error, None)

    def undo(self, system: System, t: Tensor, h: Tensor, state: Tensor, args: Sequence[Any]) -> Tensor:
        """The state at t of the step that ended in ``state`` at t + h."""
        y1, z1 = state.chunk(2, dim=1)
        back, _ = self._increment(system, t + h, -h, y1, args)
        z = z1 + back
        increment, _ = self._increment(system, t, h, z, args)
        return torch.cat([(y1 - (1 - self.lam) * z - increment) / self.lam, z], dim=1)
