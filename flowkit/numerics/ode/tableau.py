"""Explicit Runge-Kutta methods as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from flowkit.core.errors import UnknownNameError, nearest
from flowkit.kernels.mlp_trajectory_methods import METHODS


@dataclass(frozen=True)
class Tableau:
    """k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j);  y_1 = y + h sum_i b_i k_i;  error = h sum_i e_i k_i.

    Args:
        name: as ``solve`` takes it.
        order: of y_1.
        a: rows of the strictly lower triangle, without the empty first one.
        b: weights of the solution.
        e: weights of the error estimate, those of y_1 less those of the embedded solution; None without one.
        middle: weights of y(t + h/2), of order 4 or more, for the dense output; None: a cubic through values and slopes.
        source: where the numbers come from.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] | None = None
    middle: tuple[float, ...] | None = None
    source: str = ""

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.b)

    @cached_property
    def c(self) -> tuple[float, ...]:
        """Times of the stages within the step: the sums of a's rows."""
        return (0.0, *(_near_fraction(sum(row)) for row in self.a))

    @cached_property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the slope at y_1, which the next step starts with."""
        return len(self.a) > 0 and self.a[-1] == self.b[:-1] and self.b[-1] == 0


def _near_fraction(value: float) -> float:
    """A sum of coefficients without its rounding, so that a stage at the step's end is exactly there."""
    return round(value) if abs(value - round(value)) < 1e-9 else value


def method(name: str, who: str, others: Iterable[str] = ()) -> Tableau:
    """The tableau of a name; ``others`` are further names to suggest."""
    if name not in TABLEAUS:
        raise UnknownNameError(f"{who}: no method is called {name!r}. {nearest(str(name), (*TABLEAUS, *others))}")
    return TABLEAUS[name]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(Fraction(part)) for part in text.split())


def _tableau(name: str, order: int, a: str, b: str, embedded: str | None = None, middle: str | None = None, source: str = "") -> Tableau:
    """A tableau from text: rows of ``a`` separated by semicolons, numbers by blanks; ``embedded`` weights of the other solution."""
    weights = _numbers(b)
    error = None if embedded is None else tuple(x - y for x, y in zip(weights, _numbers(embedded), strict=True))
    rows = tuple(_numbers(row) for row in a.split(";")) if a else ()
    return Tableau(name, order, rows, weights, error, None if middle is None else _numbers(middle), source)


def _shared(name: str, source: str, *, error: str = "", middle: str = "") -> Tableau:
    """A method that the trajectory kernel has too, with its numbers."""
    own = METHODS[name]
    return Tableau(name, own.order, own.a[1:], own.b, _numbers(error) or own.e or None, _numbers(middle) or None, source)


_ALL = (
    _shared("euler", "Euler (1768)"),
    _shared("midpoint", "Runge (1895)"),
    _shared("heun2", "Heun (1900); the embedded solution is Euler's", error="-1/2 1/2"),
    _shared("heun3", "Heun (1900)"),
    _shared("rk4", "Kutta (1901), the 3/8 rule"),
    _shared("bosh3", "Bogacki and Shampine (1989), A 3(2) pair of Runge-Kutta formulas"),
    _shared(
        "dopri5",
        "Dormand and Prince (1980), A family of embedded Runge-Kutta formulae; midpoint from Shampine (1986)",
        middle="6025192743/60170104320 0 51252292925/130801642656 -2691868925/90256281856 187940372067/3189068634112 "
        "-1776094331/39487288512 11237099/470086768",
    ),
    _shared("tsit5", "Tsitouras (2011), Runge-Kutta pairs of order 5(4)"),
    _tableau(
        "dopri8", 8,
        "1/18; 1/48 1/16; 1/32 0 3/32; 5/16 0 -75/64 75/64; 3/80 0 0 3/16 3/20;"
        "29443841/614563906 0 0 77736538/692538347 -28693883/1125000000 23124283/1800000000;"
        "16016141/946692911 0 0 61564180/158732637 22789713/633445777 545815736/2771057229 -180193667/1043307555;"
        "39632708/573591083 0 0 -433636366/683701615 -421739975/2616292301 100302831/723423059 790204164/839813087 800635310/3783071287;"
        "246121993/1340847787 0 0 -37695042795/15268766246 -309121744/1061227803 -12992083/490766935 6005943493/2108947869"
        " 393006217/1396673457 123872331/1001029789;"
        "-1028468189/846180014 0 0 8478235783/508512852 1311729495/1432422823 -10304129995/1701304382 -48777925059/3047939560"
        " 15336726248/1032824649 -45442868181/3398467696 3065993473/597172653;"
        "185892177/718116043 0 0 -3185094517/667107341 -477755414/1098053517 -703635378/230739211 5731566787/1027545527"
        " 5232866602/850066563 -4093664535/808688257 3962137247/1805957418 65686358/487910083;"
        "403863854/491063109 0 0 -5068492393/434740067 -411421997/543043805 652783627/914296604 11173962825/925320556"
        " -13158990841/6184727034 3936647629/1978049680 -160528059/685178525 248638103/1413531060 0",
        "14005451/335480064 0 0 0 0 -59238493/1068277825 181606767/758867731 561292985/797845732 -1041891430/1371343529"
        " 760417239/1151165299 118820643/751138087 -528747749/2220607170 1/4",
        "13451932/455176623 0 0 0 0 -808719846/976000145 1757004468/5645159321 656045339/265891186 -3867574721/1518517206"
        " 465885868/322736535 53011238/667516719 2/45 0",
        source="Prince and Dormand (1981), High order embedded Runge-Kutta formulae, RK8(7)13M",
    ),
)  # fmt: skip
TABLEAUS: dict[str, Tableau] = {tableau.name: tableau for tableau in _ALL}
