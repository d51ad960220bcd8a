"""Univariate maps whose inverse is found by root finding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.checks import may_raise
from flowkit.core.errors import NotInvertibleError, ShapeError
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.loops import may_branch, repeat_until_done

MOST_STEPS = 128


class IterativeUnivariate(Univariate):
    """A univariate that only writes one direction, increasing in z; the inverse solves it, without a range limit.

    A subclass writes ``_coefficients``, raw parameters -> constrained ones, computed once per call, and ``_evaluate``.
    The root is found without a graph; two Newton steps with one then give it exact first and second derivatives in x
    and in the parameters. ``low`` and ``high`` bracket the root of a map of an interval. The inverse costs about 5 to 20
    evaluations, by how far the map is from a straight line, and three more where a graph is wanted.
    """

    traits = Traits(jacobian="diagonal", inverse="iterative")

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        """Raw parameters (*S, parameter_count) -> what ``_evaluate`` reads, each (*S, ...)."""
        raise NotImplementedError

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """x (*S) and log dx/dz (*S) for z (*S), strictly increasing in z."""
        raise NotImplementedError

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._evaluate(z, *self._coefficients(self._checked(params)))

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        coefficients = self._coefficients(self._checked(params))
        with torch.no_grad():
            # in a compiled loop no two tensors may share memory
            fixed = tuple(part.clone() for part in coefficients) if torch.compiler.is_compiling() else coefficients
            z, solved = _root(lambda value: self._evaluate(value, *fixed), x.detach(), self.low, self.high)
        z = self._judged(z, solved, params)
        if torch.is_grad_enabled():
            for _ in range(2):
                z = self._newton_step(z, x, coefficients)
        return z, -self._evaluate(z, *coefficients)[1]

    def _judged(self, z: Tensor, solved: Tensor, params: Tensor) -> Tensor:
        """The root where it is one; else raise, or NaN where values cannot be looked at or the parameters are not finite."""
        if may_branch(z) and may_raise(z) and not bool(solved.all()):
            lost = ~solved & torch.isfinite(params).all(-1)
            if bool(lost.any()):
                raise NotInvertibleError(
                    f"{type(self).__name__}.untransform: expected a solution for every value; got none for {int(lost.sum())} of {lost.numel()}. "
                    f"Parameters or values may be too large for {str(z.dtype).removeprefix('torch.')}: use float64, or smaller ones."
                )
        return torch.where(solved, z, torch.nan)

    def _newton_step(self, z: Tensor, x: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """One step with a graph. At a root it moves by rounding errors only; where the map is flat these may be huge, and the root stays.

        dz/dx is limited to 1 / eps^2, far beyond where a rounding of x decides about z: products of it stay finite.
        """
        reached, log_slope = self._evaluate(z, *coefficients)
        step = (x - reached) * torch.exp((-log_slope).clamp(max=-2 * math.log(torch.finfo(z.dtype).eps)))
        moved, most = step.detach(), torch.finfo(z.dtype).eps ** 0.5 * z.detach().abs().clamp(min=1)
        limited = torch.where(moved.abs() <= most, moved, torch.zeros_like(moved)).clamp(self.low - z.detach(), self.high - z.detach())
        return z + limited + (step - moved)  # the gradient is that of the whole step

    def _checked(self, params: Tensor) -> Tensor:
        if params.shape[-1] != self.parameter_count:
            raise ShapeError(f"{type(self).__name__}: expected {self.parameter_count} parameters per coordinate; got {params.shape[-1]}.")
        return params


def _root(function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
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
