"""Univariate maps whose inverse is found by root finding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.errors import ShapeError
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.root_finding import may_branch

MOST_STEPS = 128
LARGEST_LOG_RATE = 80.0  # exp of it is finite in float32: a flat spot gives a large gradient, not NaN


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
            z = _root(lambda value: self._evaluate(value, *coefficients), x.detach(), self.low, self.high)
        if torch.is_grad_enabled():
            for _ in range(2):
                z = self._newton_step(z, x, coefficients)
        return z, -self._evaluate(z, *coefficients)[1]

    def _newton_step(self, z: Tensor, x: Tensor, coefficients: tuple[Tensor, ...]) -> Tensor:
        """One step with a graph. At a root it moves by rounding errors only; where the map is flat these may be huge, so the move is limited."""
        reached, log_slope = self._evaluate(z, *coefficients)
        step = (x - reached) * torch.exp((-log_slope).clamp(max=LARGEST_LOG_RATE))
        moved, most = step.detach(), torch.finfo(z.dtype).eps ** 0.5 * z.detach().abs().clamp(min=1)
        least, most = (-most).clamp(min=self.low - z.detach()), most.clamp(max=self.high - z.detach())
        limited = torch.minimum(torch.maximum(moved, least), most).nan_to_num(0.0)
        return z + limited + (step - moved)  # the gradient is that of the whole step

    def _checked(self, params: Tensor) -> Tensor:
        if params.shape[-1] != self.parameter_count:
            raise ShapeError(f"{type(self).__name__}: expected {self.parameter_count} parameters per coordinate; got {params.shape[-1]}.")
        return params


def _root(function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, low: float, high: float) -> Tensor:
    """Solve value(z) = x, elementwise, for an increasing function that also knows its log-slope; no limit to its range.

    Newton's method started at x, kept between points known to lie on either side. Where it does not halve its step, it
    gives way to bisection, or to strides that double while one side is still open. Converged elements stand still.
    """
    eps, tiny = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).tiny
    z, lower, upper = x.clamp(low, high), torch.full_like(x, low), torch.full_like(x, high)
    stride, before, last = x.abs().clamp(min=1), torch.full_like(x, torch.inf), torch.full_like(x, torch.inf)
    done = ~torch.isfinite(x)
    for _ in range(MOST_STEPS):
        reached, log_slope = function(z)
        excess = reached - x
        lower, upper = torch.where(excess < 0, z, lower), torch.where(excess > 0, z, upper)
        step = torch.where(torch.isinf(excess), excess, excess * torch.exp(-log_slope))  # where the value overflows the slope does too
        target, good = _next_point(z, step, lower, upper, stride, before)
        stride = torch.where(good, stride, 2 * stride)
        there = excess.abs() <= eps * x.abs().clamp(min=1)
        before, last = last, (target - z).abs()
        z = torch.where(done | there, z, target)
        done = done | there | (last <= 2 * eps * target.abs() + tiny)
        if may_branch(x) and bool(done.all()):
            break
    return z


def _next_point(z: Tensor, step: Tensor, lower: Tensor, upper: Tensor, stride: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Where Newton's step leads, if that is any good, else the middle of the bracket or a stride; and whether it was good."""
    newton, width = z - step, upper - lower
    closed = torch.isfinite(width)
    # a step past a known side stops short of it: the root may lie there, but that side itself would teach nothing new
    margin = torch.where(closed, 0.01 * width, torch.zeros_like(width))
    newton = torch.where(newton <= lower, lower + margin, torch.where(newton >= upper, upper - margin, newton))
    # a flat spot would throw it far out
    good = torch.isfinite(newton) & ((newton - z).abs() <= torch.minimum(0.5 * before, 16 * stride))
    middle = torch.where(closed, lower + 0.5 * width, torch.where(step > 0, z - stride, z + stride))
    return torch.where(good, newton, middle), good
