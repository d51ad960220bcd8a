"""Rational-quadratic splines in float32 under stress, beside nflows: round trips, NaN, exceptions and gradients.

Pairs of an input and raw parameters are drawn with |parameter| up to 50; two thirds of the inputs lie on knots or next to one.
With x' = inverse(forward(x)), x'' = inverse(y) and f the forward map in float64 at the same parameters, errors are given as

    |f(x'') - y|  and  |f(x') - f(x)|,  in units of  bound max(1e-5, 16 eps32 f'),

f' the larger slope of the two points; a value of at most 1 passes.

    python benchmarks/spline_stress.py            # 10^6 pairs, writes benchmarks/results/spline_stress.md
"""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from torch import Tensor

from flowkit.kernels.bins import knots as axis
from flowkit.univariates import RationalQuadraticSpline

Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SCALES = (0.1, 1.0, 5.0, 20.0, 50.0)  # largest |parameter| of a row, in equal shares
BINS, BOUND = 8, 3.0
CHUNK = 1_000  # pairs per call: an exception costs its whole chunk
EPS32 = torch.finfo(torch.float32).eps


class Result(NamedTuple):
    """What one implementation did on all pairs."""

    pairs: int
    failed_chunks: int  # chunks of CHUNK pairs that raised
    error: str  # first exception
    not_finite: int  # NaN or infinite values or log-derivatives
    inverse_error: float  # largest |f(x'') - y| in units of what is allowed
    round_trip_error: float  # largest |f(x') - f(x)| in the same units
    over: int  # pairs above 1 in either
    small_error: float  # largest |x' - x| where |parameter| <= 1
    seconds: float


def pairs(count: int, seed: int = 0, bins: int = BINS, bound: float = BOUND) -> tuple[Tensor, Tensor, Tensor]:
    """x (N,), y (N,) and raw parameters (N, 3 bins - 1), float32.

    A third of the inputs is uniform on 1.5 times the interval, a third lies on a knot, a third one or two roundings from one;
    both ends of the interval count as knots.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor(SCALES)[torch.randint(len(SCALES), (count, 1), generator=generator)]
    params = scale * (2 * torch.rand(count, 3 * bins - 1, generator=generator) - 1)
    params[::7] = scale[::7] * params[::7].sign()  # corners of the cube, where widths and slopes are most extreme
    widths, heights, _ = params.split([bins, bins, bins - 1], dim=-1)
    x, y = (_inputs(raw, bound, generator) for raw in (widths, heights))
    return x, y, params


def _inputs(raw: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    count = len(raw)
    knots = axis(raw, -bound, bound, 1e-3).left
    knots = torch.cat([knots, torch.full((count, 1), bound)], dim=-1)
    value = knots.gather(-1, torch.randint(knots.shape[-1], (count, 1), generator=generator)).squeeze(-1)
    kind = torch.randint(3, (count,), generator=generator)
    towards = torch.where(torch.rand(count, generator=generator) < 0.5, -torch.inf, torch.inf)
    near = torch.nextafter(value, towards)
    near = torch.where(torch.rand(count, generator=generator) < 0.5, near, torch.nextafter(near, towards))
    uniform = 1.5 * bound * (2 * torch.rand(count, generator=generator) - 1)
    return torch.where(kind == 0, uniform, torch.where(kind == 1, value, near))


def flowkit_maps(bins: int = BINS, bound: float = BOUND) -> tuple[Map, Map]:
    """Our spline, forward and inverse."""
    spline = RationalQuadraticSpline(bins, bound)
    return spline.transform, spline.untransform


def nflows_maps(bins: int = BINS, bound: float = BOUND) -> tuple[Map, Map]:
    """The spline of nflows, forward and inverse."""

    def run(value: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        parts = params.split([bins, bins, bins - 1], dim=-1)
        return unconstrained_rational_quadratic_spline(value, *parts, inverse=inverse, tails="linear", tail_bound=bound)

    return lambda x, params: run(x, params, False), lambda y, params: run(y, params, True)


def study(forward: Map, inverse: Map, x: Tensor, y: Tensor, params: Tensor, bound: float = BOUND) -> Result:
    """Measure an implementation; the reference in float64 is its own forward map."""
    failed, first, bad, over, spent = 0, "", 0, 0, 0.0
    worst = [0.0, 0.0, 0.0]
    for at in range(0, len(x), CHUNK):
        xs, ys, ps = (part[at : at + CHUNK] for part in (x, y, params))
        start = time.perf_counter()
        try:
            made, slope = forward(xs, ps)
            back, back_slope = inverse(made, ps)
            solved, solved_slope = inverse(ys, ps)
        except Exception as error:
            failed, first = failed + 1, first or f"{type(error).__name__} {error}".strip()
            continue
        finally:
            spent += time.perf_counter() - start
        bad += sum(int((~torch.isfinite(part)).sum()) for part in (made, slope, back, back_slope, solved, solved_slope))
        wide = ps.double()
        f_x, log_x = forward(xs.double(), wide)
        f_back, log_back = forward(back.double(), wide)
        f_solved, log_solved = forward(solved.double(), wide)
        log_y = -inverse(ys.double(), wide)[1]
        inverse_error = _units((f_solved - ys.double()).abs(), log_solved, log_y, bound)
        round_trip = _units((f_back - f_x).abs(), log_back, log_x, bound)
        over += int(((inverse_error > 1) | (round_trip > 1)).sum())
        small = ps.abs().amax(-1) <= 1
        errors = (inverse_error.max(), round_trip.max(), (back - xs)[small].abs().max() if bool(small.any()) else torch.tensor(0.0))
        worst = [max(old, float(new.nan_to_num(torch.inf))) for old, new in zip(worst, errors, strict=True)]
    return Result(len(x), failed, first, bad, worst[0], worst[1], over, worst[2], spent)


def _units(error: Tensor, log_slope: Tensor, other: Tensor, bound: float) -> Tensor:
    return error / (bound * (16 * EPS32 * torch.maximum(log_slope, other).exp()).clamp(min=1e-5))


def main(count: int = 1_000_000) -> None:
    """Run both implementations on the same pairs and write the table."""
    x, y, params = pairs(count)
    results = {f"flowkit {version('flowkit')}": study(*flowkit_maps(), x, y, params), f"nflows {version('nflows')}": study(*nflows_maps(), x, y, params)}
    table = report(results)
    print(table)
    if count >= 1_000_000:
        (Path(__file__).parent / "results" / "spline_stress.md").write_text(table)


def report(results: dict[str, Result]) -> str:
    """The table as markdown."""
    rows = {
        "pairs": lambda r: f"{r.pairs:,}",
        f"calls with {CHUNK:,} pairs that raised": lambda r: f"{r.failed_chunks} of {-(-r.pairs // CHUNK)} ({r.error})" if r.failed_chunks else "0",
        "values and log-derivatives not finite": lambda r: str(r.not_finite),
        "largest abs(f(x'') - y), 1 allowed": lambda r: f"{r.inverse_error:.3g}",
        "largest abs(f(x') - f(x)), 1 allowed": lambda r: f"{r.round_trip_error:.3g}",
        "pairs above 1": lambda r: str(r.over),
        "largest abs(x' - x) where abs(parameter) <= 1; 1e-4 allowed": lambda r: f"{r.small_error:.3g}",
        "seconds, forward and two inverses": lambda r: f"{r.seconds:.1f}",
    }
    lines = [
        "# Rational-quadratic splines in float32 under stress",
        "",
        f"{BINS} bins, bound {BOUND:g}; raw parameters uniform, or at the corners of the cube, with abs(parameter) up to",
        f"{', '.join(f'{scale:g}' for scale in SCALES)} in equal shares. A third of the inputs lies on knots, a third one or two roundings from one, the rest",
        "is uniform on 1.5 times the interval. x' = inverse(forward(x)), x'' = inverse(y), f = forward in float64 at the same",
        "parameters; errors of f in units of bound max(1e-5, 16 eps32 f'). Calls that raised are left out of the rows below them.",
        "",
        f"| | {' | '.join(results)} |",
        f"|---|{'---|' * len(results)}",
        *(f"| {name} | {' | '.join(show(result) for result in results.values())} |" for name, show in rows.items()),
        "",
        f"{datetime.date.today()}. {platform.machine()}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, torch {version('torch')}.",
        "Command: `python benchmarks/spline_stress.py`",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(*(int(float(argument)) for argument in sys.argv[1:]))
