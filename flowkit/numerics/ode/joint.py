"""Marching the whole state with one step size, kept in Python numbers: few tensor operations and one read of a number per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.numerics.ode.control import GROW, SAFETY, SHRINK, Controller, Tolerance, first_step
from flowkit.numerics.ode.failures import DONE, NOT_FINITE, STEP_TOO_SMALL, TOO_MANY_STEPS
from flowkit.numerics.ode.march import Keep, Marched, Stride, empty
from flowkit.numerics.ode.runge_kutta import RungeKutta
from flowkit.numerics.ode.system import System


class Joint:
    """Steps of an explicit Runge-Kutta pair on a single row; the same rules as ``Adaptive``.

    Args:
        system, stepper: the equation and the method.
        tolerance, controller: what is accepted, and the next step's size.
        max_steps: attempts in each interval.
    """

    def __init__(self, system: System, stepper: RungeKutta, tolerance: Tolerance, controller: Controller, max_steps: int) -> None:
        self.system, self.stepper, self.tolerance, self.controller, self.max_steps = system, stepper, tolerance, controller, max_steps

    def march(self, state: Tensor, args: Sequence[Any], t: Tensor, keep: Keep) -> Marched:
        """Through the output times t (T,); ``keep`` says what is recorded of the strides."""
        made, args = empty(state, t), tuple(args)
        times, like = t.detach().tolist(), t
        slope = self.system.slope(t[:1], state, args)
        ahead = (t[-1:] - t[:1]).detach()
        first_size = first_step(self.tolerance, self.stepper.order, state, slope, ahead, lambda h, y: self.system.slope(t[:1] + h, y, args))
        size, begins = torch.stack((first_size[0], torch.isfinite(slope).all().to(first_size))).tolist()
        evaluations, accepted, rejected, now, ratio = 2, 0, 0, times[0], 0.0
        status = DONE if begins else NOT_FINITE
        past = [1.0] * self.controller.memory
        tableau, full = self.stepper.tableau, self.stepper.evaluations(True)
        for k, target in enumerate(times[1:], start=1):
            first, tries = True, 0
            while status == DONE and now != target:
                if tries == self.max_steps:
                    status = TOO_MANY_STEPS if math.isfinite(ratio) else NOT_FINITE
                    break
                tries += 1
                left = target - now
                lands = size * (1 + 1e-6) >= abs(left)
                h = left if lands else math.copysign(size, left)
                slopes, end = self._stages(state, slope, now, h, args, like)
                evaluations += full
                error = _combined(None, slopes, tableau.e, h)  # type: ignore[arg-type]
                ratio = float(self.tolerance.ratio(error, state, end))
                factor = self._factor([ratio, *past])
                if ratio <= 1:
                    following = target if lands else now + h
                    if keep:
                        made.strides.append(_stride(k, state if keep == "states" else None, now, following, first, lands, like))
                    if self.stepper.keeps_slope:
                        slope = slopes[-1]
                    else:
                        slope, evaluations = self.system.slope(_time(following, like), end, args), evaluations + 1
                    state, now, first, accepted = end, following, False, accepted + 1
                    past = [ratio, *past][: len(past)]
                    size = max(size, abs(h) * factor) if lands else abs(h) * factor
                    continue
                rejected += 1
                size = abs(h) * min(factor, 1.0)
                if abs(h) <= 16 * torch.finfo(like.dtype).eps * max(abs(now), abs(now + h)):
                    status = STEP_TOO_SMALL if math.isfinite(ratio) else NOT_FINITE
            made.states.append(state)
        made.evaluations += evaluations
        made.accepted += accepted
        made.rejected += rejected
        made.status += status
        made.reached = torch.full_like(t[:1], now)
        return made

    def _stages(self, y: Tensor, slope: Tensor, now: float, h: float, args: tuple[Any, ...], like: Tensor) -> tuple[list[Tensor], Tensor]:
        """All slopes, and the state at the step's end."""
        tableau, slopes, point = self.stepper.tableau, [slope], y
        for row, c in zip(tableau.a, tableau.c[1:], strict=True):
            point = _combined(y, slopes, row, h)
            slopes.append(self.system.slope(_time(now + c * h, like), point, args))
        return slopes, point if self.stepper.keeps_slope else _combined(y, slopes, tableau.b, h)

    def _factor(self, ratios: list[float]) -> float:
        """As ``Controller.factor``, in Python's numbers."""
        if not math.isfinite(ratios[0]):
            return SHRINK
        logs = sum(gain * math.log(max(ratio, 1e-10)) for gain, ratio in zip(self.controller.gains, ratios, strict=False) if gain)
        return min(max(SAFETY * math.exp(-logs / self.controller.order), SHRINK), GROW)


def _combined(y: Tensor | None, slopes: Sequence[Tensor], weights: Sequence[float], h: float) -> Tensor:
    """y + sum_j h w_j k_j, or the sum alone."""
    total = y
    for k, w in zip(slopes, weights, strict=True):
        if w != 0:
            total = k * (w * h) if total is None else torch.add(total, k, alpha=w * h)
    assert total is not None
    return total


def _time(t: float, like: Tensor) -> Tensor:
    return torch.full((), t, dtype=like.dtype, device=like.device)


def _stride(k: int, state: Tensor | None, start: float, end: float, departs: bool, arrives: bool, like: Tensor) -> Stride:
    # filled on the device: a copy of Python numbers would wait for it
    return Stride(k, None, state, _time(start, like).reshape(1), _time(end, like).reshape(1), departs, arrives)
