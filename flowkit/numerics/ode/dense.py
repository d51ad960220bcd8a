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
    (order 4), else the cubic through ends and slopes (order 3), folded at the boundary where there is one. Not differentiable; output
    times are. ``evaluations`` (R,) counts those that each row's polynomials took.

    Args:
        system, stepper, args: as solved.
        marched: with the states of the strides.

    Reference: Hairer, Norsett and Wanner (1993), Solving ordinary differential equations I, II.6; Shampine (1986), Some practical
    Runge-Kutta formulas.
    """

    def __init__(self, system: System, stepper: Any, args: tuple[Any, ...], marched: Marched) -> None:
        if not isinstance(stepper, RungeKutta):
            raise ConfigError(f"ode.solve: dense output needs an explicit Runge-Kutta method; got {stepper.name}. Ask for output times instead.")
        self.system, self.begin = system, marched.states[0].detach()
        self.evaluations = torch.zeros_like(marched.evaluations)
        with torch.no_grad():
            self.pieces = [_piece(system, stepper, args, stride) for stride in marched.strides]
        each = stepper.evaluations(False) + (not stepper.keeps_slope)
        for piece in self.pieces:
            self.evaluations += each if piece.rows is None else torch.zeros_like(self.evaluations).index_fill(0, piece.rows, each)

    def __call__(self, t: Tensor | float) -> Any:
        """The state at time t, () or (B,) per sample; members as in ``solve``. NaN outside the solved interval."""
        when = torch.as_tensor(t, dtype=self.begin.dtype, device=self.begin.device).expand(len(self.begin))
        value = torch.full_like(self.begin, float("nan"))
        for piece in self.pieces:
            at = when if piece.rows is None else when[piece.rows]
            inside = (at - piece.start) * (at - piece.end) <= 0
            found = torch.where(inside.unsqueeze(1), piece(at), value if piece.rows is None else value[piece.rows])
            value = found if piece.rows is None else value.index_copy(0, piece.rows, found)
        return self.shaped(value)

    def shaped(self, value: Tensor) -> Any:
        """Rows (R, N) as members, or the only one."""
        members = self.system.layout.unpack(value)
        return members if len(members) > 1 else members[0]

    def chosen(self, which: Tensor, ends: tuple[float, float]) -> _Piece:
        """One piece for all rows, from piece ``which[b]`` for row b; a row where that is -1 stays at the beginning."""
        begin, powers = self.begin, len(self.pieces[0].coefficients) if self.pieces else 1
        still = [begin, *(torch.zeros_like(begin) for _ in range(powers - 1))]
        one = _Piece(self.system, None, torch.full_like(begin[:, 0], ends[0]), torch.full_like(begin[:, 0], ends[1]), still)
        for k in which.unique().tolist():
            if k >= 0:
                one.take(self.pieces[k], which == k)
        return one


class _Piece:
    """A polynomial in (t - start) / (end - start) on some rows, which sees no boundary: its values are folded as seen from the step's start."""

    def __init__(self, system: System, rows: Tensor | None, start: Tensor, end: Tensor, coefficients: list[Tensor]) -> None:
        self.system, self.rows, self.start, self.end, self.coefficients = system, rows, start, end, coefficients

    def __call__(self, t: Tensor) -> Tensor:
        share = ((t - self.start) / (self.end - self.start)).clamp(0.0, 1.0).unsqueeze(1)
        value = self.coefficients[-1]
        for coefficient in reversed(self.coefficients[:-1]):
            value = torch.addcmul(coefficient, value, share)
        return self.system.land(self.coefficients[0], value)[0]

    def take(self, other: _Piece, mask: Tensor) -> None:
        """Become another piece on the rows of a mask (R,); this one has all rows."""

        def taken(mine: Tensor, theirs: Tensor) -> Tensor:
            whole = theirs if other.rows is None else mine.index_copy(0, other.rows, theirs)
            return torch.where(mask.reshape(-1, *[1] * (mine.dim() - 1)), whole, mine)

        self.start, self.end = taken(self.start, other.start), taken(self.end, other.end)
        self.coefficients = [taken(mine, theirs) for mine, theirs in zip(self.coefficients, other.coefficients, strict=True)]


def _piece(system: System, stepper: RungeKutta, args: tuple[Any, ...], stride: Stride) -> _Piece:
    """The polynomial of a stride, whose stages are evaluated again."""
    assert stride.state is not None
    some = args if stride.rows is None else tuple(a[stride.rows] if isinstance(a, Tensor) else a for a in args)
    t, y, h = stride.start, stride.state.detach(), (stride.end - stride.start).unsqueeze(1)
    slopes, _ = stepper.stages(system, t, h.squeeze(1), y, some)
    y1 = combine(y, slopes, stepper.tableau.b, h)
    f0, f1 = h * slopes[0], h * (slopes[-1] if stepper.keeps_slope else system.stage(stride.end, y, y1, some))
    gap = y1 - y
    if stepper.tableau.middle is None:
        return _Piece(system, stride.rows, stride.start, stride.end, [y, f0, 3 * gap - 2 * f0 - f1, f0 + f1 - 2 * gap])
    middle = combine(y, slopes, stepper.tableau.middle, h) - y
    c2 = f1 - 4 * f0 - 5 * gap + 16 * middle
    c3 = 5 * f0 - 3 * f1 + 14 * gap - 32 * middle
    c4 = 2 * (f1 - f0) - 8 * gap + 16 * middle
    return _Piece(system, stride.rows, stride.start, stride.end, [y, f0, c2, c3, c4])
