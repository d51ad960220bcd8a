"""The monotone rational-quadratic spline as an operation on tensors.

Notation: bin [X, X + W] -> [Y, Y + H] with slopes d0, d1 at its ends, s = H / W, t = (x - X) / W, q = t (1 - t):

    D = s + (d0 + d1 - 2 s) q      y = Y + H (s t^2 + d0 q) / D
    P = d1 t^2 + 2 s q + d0 (1 - t)^2      dy/dx = s^2 P / D^2

For the inverse put r = (y - Y) / H and write the equation in the distances from both ends, t and u = 1 - t:

    s (1 - r) t^2 + m t u - s r u^2 = 0,      m = (1 - r) d0 - r d1,      R = sqrt(m^2 + 4 s^2 r (1 - r))
    t : u = 2 s r : R + m    if m >= 0,       R - m : 2 s (1 - r)    otherwise

Every sum here is of non-negative terms, so the root is always real and t is accurate near both ends of the bin. (Measured
from the left end alone, as usual, float32 loses solutions near a steep right end.)

Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, equations 4 to 8; Gregory and Delbourgo (1982).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.kernels.bins import MIN_HEIGHT, MIN_WIDTH, Axis, Bin, bin_of, knots, pick

MIN_SLOPE = 1e-3
UNIT_SLOPE = math.log(math.expm1(1.0 - MIN_SLOPE))  # raw parameter at which a slope is exactly 1


def spline(x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Evaluate the spline at x in [low, high].

    Args:
        x: (*S); widths, heights: raw (*S, K); slopes: raw (*S, K + 1), one per knot.

    Returns:
        y (*S) in [low, high] and log dy/dx (*S).
    """
    return _rise(x, *steep_bin(x, widths, heights, slopes, low, high, by_height=False), low, high)


def inverse_spline(y: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline`` at y in [low, high]: x (*S) and log dx/dy (*S)."""
    return _fall(y, *steep_bin(y, widths, heights, slopes, low, high, by_height=True), low, high)


def spline_through(x: Tensor, widths: Axis, heights: Axis, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """``spline`` for bins and slopes as they are, in place of raw numbers.

    Args:
        x: (*S) in [low, high]; widths, heights: bins (*S, K) that fill [low, high]; slopes: (*S, K + 1), positive.
    """
    b = bin_of(x, widths, heights, by_height=False)
    return _rise(x, b, pick(slopes, b.number), pick(slopes, b.number + 1), low, high)


def inverse_spline_through(y: Tensor, widths: Axis, heights: Axis, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline_through``."""
    b = bin_of(y, widths, heights, by_height=True)
    return _fall(y, b, pick(slopes, b.number), pick(slopes, b.number + 1), low, high)


def root(r: Tensor, s: Tensor | float, first: Tensor, last: Tensor) -> Tensor:
    """Where in a bin of mean slope s and end slopes ``first``, ``last`` the share r of the height is reached: t in [0, 1]."""
    rest = 1 - r
    middle = rest * first - r * last
    rising = middle >= 0
    # where, not abs(), whose derivative at 0 is 0
    far = torch.sqrt(middle * middle + 4 * s * s * r * rest) + torch.where(rising, middle, -middle)
    far = far.clamp(max=torch.finfo(far.dtype).max / 16)  # the square of a steep end may be no number
    t_part, u_part = torch.where(rising, 2 * s * r, far), torch.where(rising, far, 2 * s * rest)
    return t_part / (t_part + u_part)


def steep_bin(value: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, low: float, high: float, *, by_height: bool) -> tuple[Bin, Tensor, Tensor]:
    """The bin each value falls in, and the slopes at its two ends."""
    b = bin_of(value, knots(widths, low, high, MIN_WIDTH), knots(heights, low, high, MIN_HEIGHT), by_height=by_height)
    first = MIN_SLOPE + functional.softplus(pick(slopes, b.number))
    last = MIN_SLOPE + functional.softplus(pick(slopes, b.number + 1))
    return b, first, last


def _rise(x: Tensor, b: Bin, first: Tensor, last: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    y, log_slope = _evaluate(((x - b.x) / b.width).clamp(0.0, 1.0), b, first, last)
    return y.clamp(low, high), log_slope


def _fall(y: Tensor, b: Bin, first: Tensor, last: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    t = root(((y - b.y) / b.height).clamp(0.0, 1.0), b.height / b.width, first, last)
    _, log_slope = _evaluate(t, b, first, last)
    return (b.x + t * b.width).clamp(low, high), -log_slope


def _evaluate(t: Tensor, b: Bin, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    s = b.height / b.width
    u = 1 - t
    q = t * u
    denominator = s + (first + last - 2 * s) * q
    y = b.y + b.height * ((s * t * t + first * q) / denominator)
    numerator = last * t * t + 2 * s * q + first * u * u
    ratio = s / denominator
    return y, torch.log(ratio * (ratio * numerator))  # in this order: the square of a small ratio may be no number
