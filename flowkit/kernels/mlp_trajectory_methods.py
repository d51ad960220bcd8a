"""Runge-Kutta methods of the whole-trajectory op, as numbers that its reference and its kernels share.

    k_i = f(t + c_i h, y + h sum_j a_ij k_j),   y1 = y + h sum_i b_i k_i,   error = h sum_i e_i k_i

Reference: Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I; Dormand and Prince (1980); Bogacki and Shampine
(1989); Tsitouras (2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

MOST_STAGES = 7
Row = tuple[float, ...]


@dataclass(frozen=True)
class Method:
    """An explicit method; with error weights its last stage is the slope at the step's end, and the next step's first.

    Args:
        order: which sizes the steps.
        a: rows of the strictly lower triangle, the empty first one included.
        b: weights of the new state.
        e: weights of the error, or nothing.
    """

    order: int
    a: tuple[Row, ...]
    b: Row
    e: Row = ()

    @cached_property
    def c(self) -> Row:
        """The stages' times."""
        return tuple(round(sum(row), 12) for row in self.a)

    @property
    def used(self) -> int:
        """Stages that the new state needs."""
        return max(i + 1 for i, weight in enumerate(self.b) if weight)

    @cached_property
    def table(self) -> Tensor:
        """Stages, order, then a, b, e and c filled up with zeros: what C++ reads."""
        rows = [row + (0.0,) * (MOST_STAGES - len(row)) for row in (*self.a, *((),) * (MOST_STAGES - len(self.a)), self.b, self.e, self.c)]
        return torch.tensor([float(len(self.b)), float(self.order), *(number for row in rows for number in row)], dtype=torch.float64, device="cpu")


def _row(text: str) -> Row:
    return tuple(float(Fraction(part)) for part in text.split())


def _method(order: int, a: str, b: str, other: str = "") -> Method:
    """From text: rows of a separated by semicolons, the weights, and those of the embedded solution."""
    weights = _row(b)
    error = tuple(mine - its for mine, its in zip(weights, _row(other), strict=True)) if other else ()
    return Method(order, ((), *(_row(row) for row in a.split(";") if row)), weights, error)


_TSIT5_B = "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 2.324710524099774"
_DOPRI5_B = "35/384 0 500/1113 125/192 -2187/6784 11/84"
METHODS = {
    "euler": _method(1, "", "1"),
    "midpoint": _method(2, "1/2", "0 1"),
    "heun2": _method(2, "1", "1/2 1/2"),
    "heun3": _method(3, "1/3; 0 2/3", "1/4 0 3/4"),
    "rk4": _method(4, "1/3; -1/3 1; 1 -1 1", "1/8 3/8 3/8 1/8"),
    "bosh3": _method(3, "1/2; 0 3/4; 2/9 1/3 4/9", "2/9 1/3 4/9 0", "7/24 1/4 1/3 1/8"),
    "dopri5": _method(
        5,
        f"1/5; 3/40 9/40; 44/45 -56/15 32/9; 19372/6561 -25360/2187 64448/6561 -212/729;9017/3168 -355/33 46732/5247 49/176 -5103/18656; {_DOPRI5_B}",
        f"{_DOPRI5_B} 0",
        "5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40",
    ),
    "tsit5": _method(
        5,
        "0.161; -0.008480655492356989 0.335480655492357; 2.8971530571054935 -6.359448489975075 4.3622954328695815;"
        "5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525;"
        f"5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 -0.028269050394068383; {_TSIT5_B}",
        f"{_TSIT5_B} 0",
        "0.09468075576583945 0.009183565540343254 0.4877705284247616 1.234297566930479 -2.7077123499835256 1.866628418170587 1/66",
    ),
}
