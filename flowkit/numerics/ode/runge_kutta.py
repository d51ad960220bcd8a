"""One step of an explicit Runge-Kutta method on rows with times and steps of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.numerics.ode.system import System
from flowkit.numerics.ode.tableau import Tableau


class Step(NamedTuple):
    """What a step made.

    Args:
        y: state at its end (r, M).
        error: estimate of the local error (r, M), or None.
        last: slope at the end (r, M) where the method has it, or None; a row that was reflected needs another.
        hits: how often each row was reflected at a boundary (r,), or None.
    """

    y: Tensor
    error: Tensor | None
    last: Tensor | None
    hits: Tensor | None = None


class RungeKutta:
    """The stepper of a tableau. A stepper's state may be wider than the equation's (see ``start`` and ``value``); here it is the same.

    Args:
        tableau: the method.
    """

    reversible, uses_slope, start_evaluations = False, True, 0

    def __init__(self, tableau: Tableau) -> None:
        self.tableau, self.order, self.name = tableau, tableau.order, tableau.name
        self.adaptive = tableau.e is not None
        self.keeps_slope = tableau.first_same_as_last

    def evaluations(self, given_first: bool, wants_error: bool = True) -> int:
        """Slopes that a step evaluates."""
        return self.tableau.stages - given_first - (self.keeps_slope and not wants_error)

    def start(self, system: System, t: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
        """The stepper's state (r, M) at the beginning."""
        return y

    def value(self, state: Tensor) -> Tensor:
        """The solution (r, N) within a state (r, M)."""
        return state

    def step(self, system: System, t: Tensor, h: Tensor, y: Tensor, args: Sequence[Any], first: Tensor | None = None, wants_error: bool = False) -> Step:
        """From t to t + h.

        Args:
            t, h: (r,); y: (r, N); first: the slope at (t, y) if it is known.
            wants_error: also the error estimate, and the slope at the end where the method has it.
        """
        tableau, column = self.tableau, h.unsqueeze(1)
        # the last stage of a first-same-as-last pair serves the error and the next step alone
        whole = wants_error or not self.keeps_slope
        slopes, point = self.stages(system, t, h, y, args, first, tableau.stages if whole else tableau.stages - 1)
        end = point if whole and self.keeps_slope else combine(y, slopes, tableau.b[: len(slopes)], column)
        error = weighted(slopes, tableau.e) * column if wants_error and tableau.e is not None else None
        landed, hits = system.land(y, end)
        return Step(landed, error, slopes[-1] if whole and self.keeps_slope else None, hits)

    def stages(
        self, system: System, t: Tensor, h: Tensor, y: Tensor, args: Sequence[Any], first: Tensor | None = None, count: int | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The first ``count`` slopes, default all, and the point of the last of them."""
        tableau, column, point = self.tableau, h.unsqueeze(1), y
        slopes = [system.slope(t, y, args) if first is None else first]
        for i in range(1, count or tableau.stages):
            point, c = combine(y, slopes, tableau.a[i - 1], column), tableau.c[i]
            slopes.append(system.stage(t + c * h if c != 1 else t + h, y, point, args))
        return slopes, point


def combine(y: Tensor, slopes: Sequence[Tensor], weights: Sequence[float], h: Tensor) -> Tensor:
    """y + h sum_j w_j k_j, terms of weight zero left out."""
    return torch.addcmul(y, weighted(slopes, weights), h)


def weighted(slopes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_j w_j k_j."""
    total: Tensor | None = None
    for k, w in zip(slopes, weights, strict=True):
        if w != 0:
            total = k * w if total is None else torch.add(total, k, alpha=w)
    assert total is not None
    return total
