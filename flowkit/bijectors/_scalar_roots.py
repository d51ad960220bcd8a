"""Scalar equations with a known bracket that maps of several dimensions are inverted through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.numerics.root_finding import solve_increasing


def bracketed_root(function: Callable[[Tensor], Tensor], y: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    """Solve function(x) = y, function increasing and elementwise, where |x - centre| <= reach; without a graph.

    Args:
        function: (*S) -> (*S).
        y: (*S); centre, reach: broadcast to (*S).
    """
    with torch.no_grad():
        wide = reach + 1e-3 * (1 + centre.abs())  # an end that is rounded past the root would lose it
        return solve_increasing(function, y, low=centre - wide, high=centre + wide)


def tanh_root(y: Tensor, factor: Tensor, gap: Tensor) -> Tensor:
    """Solve v + factor tanh(v) = y, with exact first and second derivatives in all arguments.

    The left side increases, since its slope tanh^2(v) + gap (1 - tanh^2(v)) is positive, and |v - y| <= |factor|
    brackets the root. It is found without a graph; two Newton steps with one give the derivatives.

    Args:
        y: (*S).
        factor: above -1, broadcasts to (*S).
        gap: 1 + factor, computed by the caller without cancellation.
    """
    v = bracketed_root(lambda value: value + factor * torch.tanh(value), y, y, factor.abs())
    if torch.is_grad_enabled():
        for _ in range(2):
            t = torch.tanh(v)
            v = v + (y - v - factor * t) / tanh_slope(t, gap)
    return v


def tanh_slope(t: Tensor, gap: Tensor) -> Tensor:
    """1 + factor (1 - t^2) at t = tanh(v), as a sum of positive terms."""
    square = t.square()
    return square + gap * (1 - square)
