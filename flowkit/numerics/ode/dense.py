"""A solution at any time, by a polynomial on each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.numerics.ode.march import Marched, Stride
from flowkit.numerics.ode.runge_kutta import RungeKutta, combine
from flowkit.numerics.ode.system import System


class Interpolant:
    """y(t) within the solved interval: on each step a quartic through both ends, their slopes and the middle where the method has it
    (order 4), else the cubic through ends and slopes (order 3). Not differentiable; output times are.

    Args:
        system, stepper, args: as solved.
        marched: with the states of the strides.
        times: the output times (T,).

    Reference: Hairer, Norsett and Wanner (1993), Solving ordinary differential equations I, II.6; Shampine (1986), Some practical
    Runge-Kutta formulas.
    """

    def __init__(self, system: System, stepper: Any, args: tuple[Any, ...], marched: Marched, times: Tensor) -> None:
        if not isinstance(stepper, RungeKutta):
            raise ConfigError(f"ode.solve: dense output needs an explicit Runge-Kutta method; got {stepper.name}. Ask for output times instead.")
        self.layout, self.rows, self.like = system.layout, len(marched.status), marched.states[0]
        self.first, self.last = float(times[0]), float(times[-1])
        with torch.no_grad():
            self.pieces = [_piece(system, stepper, args, stride) for stride in marched.strides]

    def __call__(self, t: Tensor | float) -> Any:
        """The state at time t, () or (B,) per sample; members as in ``solve``. NaN outside the solved interval."""
        when = torch.as_tensor(t, dtype=self.like.dtype, device=self.like.device).expand(self.rows)
        value = torch.full_like(self.like, float("nan"))
        for piece in self.pieces:
            at = when if piece.rows is None else when[piece.rows]
            inside = (at - piece.start) * (at - piece.end) <= 0
            found = torch.where(inside.unsqueeze(1), piece(at), value if piece.rows is None else value[piece.rows])
            value = found if piece.rows is None else value.index_copy(0, piece.rows, found)
        members = self.layout.unpack(value)
        return members if len(members) > 1 else members[0]


class _Piece:
    """A polynomial in (t - start) / (end - start) on some rows."""

    def __init__(self, rows: Tensor | None, start: Tensor, end: Tensor, coefficients: list[Tensor]) -> None:
        self.rows, self.start, self.end, self.coefficients = rows, start, end, coefficients

    def __call__(self, t: Tensor) -> Tensor:
        share = ((t - self.start) / (self.end - self.start)).unsqueeze(1)
        value = self.coefficients[-1]
        for coefficient in reversed(self.coefficients[:-1]):
            value = torch.addcmul(coefficient, value, share)
        return value


def _piece(system: System, stepper: RungeKutta, args: tuple[Any, ...], stride: Stride) -> _Piece:
    """The polynomial of a stride, whose stages are evaluated again."""
    assert stride.state is not None
    some = args if stride.rows is None else tuple(a[stride.rows] if isinstance(a, Tensor) else a for a in args)
    t, y, h = stride.start, stride.state, (stride.end - stride.start).unsqueeze(1)
    slopes, _ = stepper.stages(system, t, h.squeeze(1), y, some)
    y1 = combine(y, slopes, stepper.tableau.b, h)
    f0, f1 = h * slopes[0], h * (slopes[-1] if stepper.keeps_slope else system.slope(stride.end, y1, some))
    gap = y1 - y
    if stepper.tableau.middle is None:
        return _Piece(stride.rows, stride.start, stride.end, [y, f0, 3 * gap - 2 * f0 - f1, f0 + f1 - 2 * gap])
    middle = combine(y, slopes, stepper.tableau.middle, h) - y
    c2 = f1 - 4 * f0 - 5 * gap + 16 * middle
    c3 = 5 * f0 - 3 * f1 + 14 * gap - 32 * middle
    c4 = 2 * (f1 - f0) - 8 * gap + 16 * middle
    return _Piece(stride.rows, stride.start, stride.end, [y, f0, c2, c3, c4])
