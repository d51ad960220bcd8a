"""Roots of increasing scalar functions, elementwise over a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.loops import repeat_until_done


def solve_increasing(
    function: Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    low: float | Tensor = -float("inf"),
    high: float | Tensor = float("inf"),
    iterations: int = 128,
) -> Tensor:
    """Solve function(x) = y for every element, function increasing and elementwise.

    The bracket grows by doubling over the whole range of the dtype until it holds the root; then Chandrupatla's method
    (inverse quadratic interpolation, falling back to bisection) runs with masked updates for at most ``iterations`` steps.
    No gradient passes through: see ``implicit_step``.

    Args:
        function: (*S) -> (*S).
        y: (*S).
        low, high: interval the root is known to lie in, a number or one per element (broadcast to *S).

    Returns:
        x (*S), to the last few bits; NaN where y is NaN.

    Reference: Chandrupatla (1997), A new hybrid quadratic/bisection algorithm, Adv. Eng. Softw. 28(3).
    """
    if y.is_meta:
        return torch.empty_like(y)
    with torch.no_grad():
        y = y.detach()
        lower, upper = _bracket(function, y, torch.as_tensor(low).to(y).expand_as(y), torch.as_tensor(high).to(y).expand_as(y))
        return _chandrupatla(function, y, lower, upper, iterations)


def implicit_step(x: Tensor, residual: Tensor, slope: Tensor) -> Tensor:
    """Give a root its gradient by the implicit function theorem: x - residual / slope.

    One Newton step whose derivative is that of the exact solution, so it also polishes the value.

    Args:
        x: a root found without a graph (*S); residual: function(x) - y with a graph; slope: d function / dx at x.
    """
    return x - residual / slope.detach()


def _bracket(function: Callable[[Tensor], Tensor], y: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    centre = torch.minimum(torch.maximum(y, low), high)
    # a known end is taken as it is; the other ends grow
    lower = torch.where(torch.isinf(low), torch.minimum(centre - 1, high), low)
    upper = torch.where(torch.isinf(high), torch.maximum(centre + 1, low), high)
    largest = torch.finfo(y.dtype).max
    low, high = low.clamp(min=-largest), high.clamp(max=largest)

    def grow(lower: Tensor, upper: Tensor, width: Tensor, done: Tensor) -> tuple[Tensor, ...]:
        too_high = (function(lower) > y) & (lower > low) & torch.isfinite(y)
        too_low = (function(upper) < y) & (upper < high) & torch.isfinite(y)
        lower, upper = (
            torch.where(too_low, upper, torch.where(too_high, torch.maximum(lower - width, low), lower)),
            torch.where(too_high, lower, torch.where(too_low, torch.minimum(upper + width, high), upper)),
        )
        return lower, upper, width * 2, ~(too_high | too_low)

    most = math.frexp(largest)[1] - 1  # doublings of 1 that the dtype can hold
    start = (lower, upper, y.abs().clamp(min=1), torch.zeros_like(y, dtype=torch.bool))
    lower, upper, _, _ = repeat_until_done(grow, start, most, most_blind=min(most, 60 if y.dtype == torch.float64 else 30))
    return lower, upper


def _chandrupatla(function: Callable[[Tensor], Tensor], y: Tensor, lower: Tensor, upper: Tensor, iterations: int) -> Tensor:
    b, a = lower, upper
    fb, fa = function(b) - y, function(a) - y
    c, fc, t = a, fa, torch.full_like(y, 0.5)
    eps = torch.finfo(y.dtype).eps
    best, done = torch.where(fa.abs() < fb.abs(), a, b), torch.zeros_like(y, dtype=torch.bool)

    def step(a: Tensor, fa: Tensor, b: Tensor, fb: Tensor, c: Tensor, fc: Tensor, t: Tensor, best: Tensor, done: Tensor) -> tuple[Tensor, ...]:
        x = a + t * (b - a)
        fx = function(x) - y
        same = torch.sign(fx) == torch.sign(fa)
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        best = torch.where(done, best, torch.where(fa.abs() <= fb.abs(), a, b))
        span = (b - a).abs()
        tolerance = 2 * eps * best.abs() + torch.finfo(y.dtype).tiny
        done = done | (tolerance >= 0.5 * span) | (fx == 0)
        t = _interpolation(a, fa, b, fb, c, fc)
        edge = (tolerance / span.clamp(min=torch.finfo(y.dtype).tiny)).clamp(max=0.5)
        return a, fa, b, fb, c, fc, torch.minimum(torch.maximum(t, edge), 1 - edge), best, done

    return repeat_until_done(step, (a, fa, b, fb, c, fc, t, best, done), iterations)[-2]


def _interpolation(a: Tensor, fa: Tensor, b: Tensor, fb: Tensor, c: Tensor, fc: Tensor) -> Tensor:
    """Where to look next between a and b: inverse quadratic where it is safe, else the middle."""
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    safe = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
    t = fa / (fb - fa) * (fc / (fb - fc)) + (c - a) / (b - a) * (fa / (fc - fa)) * (fb / (fc - fb))
    return torch.where(safe & torch.isfinite(t), t, torch.full_like(t, 0.5))
