"""Maps whose inverse is found by root finding: elementwise, without a range limit, with exact derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.loops import repeat_until_done

MOST_STEPS = 128
Evaluate = Callable[..., tuple[Tensor, Tensor]]


def solve(evaluate: Evaluate, x: Tensor, coefficients: tuple[Tensor, ...], low: float, high: float) -> tuple[Tensor, Tensor]:
    """The root of an increasing map, without a graph, and whether it was found: (*S), (*S).

    Args:
        evaluate: (z (*S), *coefficients) -> x (*S) and log dx/dz (*S), strictly increasing in z.
        x: (*S).
        coefficients: of the map, each (*S, ...).
        low, high: a bracket of all roots.
    """
    if x.is_meta:  # nothing to look for
        return torch.empty_like(x), torch.ones_like(x, dtype=torch.bool)
    with torch.no_grad():
        # in a compiled loop no two tensors may share memory
        fixed = tuple(part.clone() for part in coefficients) if torch.compiler.is_compiling() else coefficients
        return root(lambda value: evaluate(value, *fixed), x.detach(), low, high)


def polished(evaluate: Evaluate, z: Tensor, x: Tensor, coefficients: tuple[Tensor, ...], low: float, high: float) -> tuple[Tensor, Tensor]:
    """A root from ``solve``, after two Newton steps with a graph where one is wanted, and log dz/dx: (*S), (*S).

    The steps give the root exact first and second derivatives in x and in the coefficients.
    """
    if torch.is_grad_enabled():
        for _ in range(2):
            z = _newton_step(evaluate, z, x, coefficients, low, high)
    return z, -evaluate(z, *coefficients)[1]


def _newton_step(evaluate: Evaluate, z: Tensor, x: Tensor, coefficients: tuple[Tensor, ...], low: float, high: float) -> Tensor:
    """One step with a graph. At a root it moves by rounding errors only; where the map is flat these may be huge, and the root stays.

    dz/dx is limited to 1 / eps^2, far beyond where a rounding of x decides about z: products of it stay finite.
    """
    reached, log_slope = evaluate(z, *coefficients)
    step = (x - reached) * torch.exp((-log_slope).clamp(max=-2 * math.log(torch.finfo(z.dtype).eps)))
    moved, most = step.detach(), torch.finfo(z.dtype).eps ** 0.5 * z.detach().abs().clamp(min=1)
    limited = torch.where(moved.abs() <= most, moved, torch.zeros_like(moved)).clamp(low - z.detach(), high - z.detach())
    return z + limited + (step - moved)  # the gradient is that of the whole step


def root(function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Solve value(z) = x, elementwise, for an increasing function that also knows its log-slope; and whether it was solved.

    Newton's method started at x, kept between points known to lie on either side. Where it does not halve its step, it
    gives way to bisection, or to strides that double while one side is still open. Converged elements stand still.
    Solved means to rounding: the value is that of x, or an error of z of rounding size explains the difference, or the two
    sides have met. Where x is not finite there is nothing to solve: that counts as solved.
    """
    info = torch.finfo(x.dtype)

    def advance(z: Tensor, lower: Tensor, upper: Tensor, stride: Tensor, before: Tensor, last: Tensor, done: Tensor) -> tuple[Tensor, ...]:
        reached, log_slope = function(z)
        # beyond the function's range, where it is not even infinite, the root is nearer to zero
        excess = torch.where(torch.isnan(reached), torch.inf * z, reached - x)
        lower, upper = torch.where(excess < 0, z, lower), torch.where(excess > 0, z, upper)
        # where value or slope overflows, the step is not the zero or NaN that it looks like
        step = torch.where(torch.isinf(excess) | torch.isinf(log_slope), torch.inf * excess, excess * torch.exp(-log_slope))
        # equal to rounding, or so near that an error of z of rounding size explains the difference
        there = (excess.abs() <= info.eps * x.abs().clamp(min=1)) | (step.abs() <= 2 * info.eps * z.abs() + info.tiny)
        target, good = _next_point(z, step, excess > 0, lower, upper, stride, before)
        met = upper - lower <= 2 * info.eps * target.abs() + info.tiny
        after = torch.where(done | there, z, target)
        return after, lower, upper, torch.where(good, stride, 2 * stride), last, (target - z).abs(), done | there | met

    unknown = torch.full_like(x, torch.inf)
    start = (x.clamp(low, high), torch.full_like(x, low), torch.full_like(x, high), x.abs().clamp(min=1), unknown, unknown, ~torch.isfinite(x))
    z, *_, done = repeat_until_done(advance, start, MOST_STEPS)
    return z, done


def _next_point(z: Tensor, step: Tensor, above: Tensor, lower: Tensor, upper: Tensor, stride: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Where Newton's step leads, if that is any good, else the middle of the bracket or a stride; and whether it was good."""
    newton, width = z - step, upper - lower
    closed = torch.isfinite(lower) & torch.isfinite(upper)
    # the scale on which ten halvings lead from the dtype's whole range to a factor of two
    first, last = (end.sign() * end.abs().log1p() for end in (lower, upper))
    wide = ~(last - first <= 1)
    # a step past a known side stops short of it: the root may lie there, but that side itself would teach nothing new
    margin = torch.where(closed, 0.01 * width, torch.zeros_like(width))
    newton = torch.where(newton <= lower, lower + margin, torch.where(newton >= upper, upper - margin, newton))
    # a flat spot would throw it far out, a power creeps in from afar, and an overflow says nothing about where
    most = torch.minimum(torch.where(wide, 0.25, 0.5) * before, 16 * stride)
    good = torch.isfinite(step) & torch.isfinite(newton) & ((newton - z).abs() <= most)
    middle = 0.5 * first + 0.5 * last
    middle = torch.where(wide, middle.sign() * middle.abs().expm1(), 0.5 * lower + 0.5 * upper)  # logarithms are too coarse for a narrow bracket
    middle = torch.where(closed, middle, torch.where(above, z - stride, z + stride))
    largest = torch.finfo(z.dtype).max
    return torch.where(good, newton, middle).clamp(-largest, largest), good
