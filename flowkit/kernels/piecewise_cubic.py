"""The monotone piecewise-cubic spline as an operation on tensors: slopes at the knots by Steffen's rule.

Notation: bin [X, X + W] -> [Y, Y + H], s = H / W, slopes a s and b s at its ends, t = (x - X) / W, u = 1 - t:

    (y - Y) / H = t (a u^2 + (3 - b) t u + t^2)      (dy/dx) / s = a u^2 + 2 (3 - a - b) t u + b t^2

Between bins of slopes s, s' and widths W, W' the knot's slope is min(2 s, 2 s', (s W' + s' W) / (W + W')). This makes a and b
at most 2; one end of the interval may have up to 3. Then all terms of y are non-negative and dy/dx is positive: at least
0.7 min(a, b, 0.2) s.

The slope at a linear end is 1, so there 3 s > 1 is needed: the shares q of the height are those of the softmax p', but the
first and last bin get a third of their share p of the width beforehand,

    q = (p_1 e_1 + p_K e_K) / 3 + (1 - (p_1 + p_K) / 3) p'

and p' is of the raw heights plus log(2/3) at these two, so that equal raw numbers are the identity.

For the inverse, t (or u where more than half of the height is reached, which swaps a and b) is the root of
g(t) = t (a u^2 + (3 - b) t u + t^2) = r <= 1/2. The rational-quadratic bin with the same ends gives a first value, Halley's method
the root: for all a, b and r to the last bits in 5 steps and 2 of Newton's, far sooner unless a and 3 - b both vanish, where g is
t^3. (Cardano's formulas cancel near a = b = 1 and where two roots meet, so in float32 they would need as many steps after them.)

Reference: Durkan et al. (2019), Cubic-spline flows, arXiv:1906.02145, section 3; Steffen (1990), A simple method for monotonic
interpolation in one dimension, Astron. Astrophys. 239, equations 8 to 11.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.kernels.bins import MIN_HEIGHT, MIN_WIDTH, Axis, Bin, bin_of, pick, scaled, shares
from flowkit.kernels.rational_quadratic import root

MIN_END = 1e-3  # smallest slope at a free end, in units of the largest, 3 s
HALLEY_STEPS = 5
LOG_TWO_THIRDS = math.log(2 / 3)


class Ends(NamedTuple):
    """How the slope at the ends of the interval is set, for all elements or (tensors) for each; circular where neither is True.

    ``raw``: (*S, 2), the slopes of ``free`` ends, or None where there are none.
    """

    linear: Tensor | bool
    free: Tensor | bool
    raw: Tensor | None


def spline(x: Tensor, widths: Tensor, heights: Tensor, ends: Ends, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Evaluate the spline at x in [low, high].

    Args:
        x: (*S); widths, heights: raw (*S, K).

    Returns:
        y (*S) in [low, high] and log dy/dx (*S).
    """
    b, first, last = _bin(x, widths, heights, ends, low, high, by_height=False)
    t = ((x - b.x) / b.width).clamp(0.0, 1.0)
    share, slope, _ = _cubic(t, first, last)
    return (b.y + b.height * share).clamp(low, high), torch.log(b.height / b.width * slope)


def inverse_spline(y: Tensor, widths: Tensor, heights: Tensor, ends: Ends, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline`` at y in [low, high]: x (*S) and log dx/dy (*S)."""
    b, first, last = _bin(y, widths, heights, ends, low, high, by_height=True)
    r = ((y - b.y) / b.height).clamp(0.0, 1.0)
    low_half = r <= 0.5
    near, far = torch.where(low_half, first, last), torch.where(low_half, last, first)
    share = torch.where(low_half, r, 1 - r)
    t = share_root(share.detach(), near.detach(), far.detach())
    for _ in range(2):  # with a graph: the root's first and second derivatives are exact
        reached, slope, _ = _cubic(t, near, far)
        t = t - (reached - share) / slope
    _, slope, _ = _cubic(t, near, far)
    t = torch.where(low_half, t, 1 - t)
    return (b.x + t * b.width).clamp(low, high), -torch.log(b.height / b.width * slope)


def share_root(share: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """The t in [0, 1] at which a bin with end slopes ``near``, ``far`` (over its mean slope) reaches a share <= 1/2; no graph."""
    with torch.no_grad():
        t = root(share, 1.0, near, far)
        for _ in range(HALLEY_STEPS):
            reached, slope, bend = _cubic(t, near, far)
            over = reached - share
            t = (t - over * slope / (slope * slope - 0.5 * over * bend)).clamp(0.0, 1.0)
    return t


def _cubic(t: Tensor, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The share of the height that is reached at t, its first and its second derivative."""
    u = 1 - t
    middle = 3 - first - last
    share = t * (first * u * u + (3 - last) * t * u + t * t)
    slope = first * u * u + 2 * middle * t * u + last * t * t
    return share, slope, 2 * ((middle - first) * u + (last - middle) * t)


def _bin(value: Tensor, widths: Tensor, heights: Tensor, ends: Ends, low: float, high: float, *, by_height: bool) -> tuple[Bin, Tensor, Tensor]:
    """The bin each value falls in, and the slopes at its two ends over its mean slope."""
    x, y = bins(widths, heights, ends, low, high)
    b = bin_of(value, x, y, by_height=by_height)
    count, slope = widths.shape[-1], b.height / b.width
    before, after = ((b.number + step) % count for step in (-1, 1))  # around the circle
    first = _steffen(pick(x.size, before), pick(y.size, before), b.width, b.height)
    last = _steffen(b.width, b.height, pick(x.size, after), pick(y.size, after))
    at_start, at_end = (b.number == 0).squeeze(-1), (b.number == count - 1).squeeze(-1)
    if ends.raw is not None:
        start, end = (slope * (3 * (MIN_END + (1 - MIN_END) * torch.sigmoid(raw))) for raw in ends.raw.unbind(-1))
        first, last = torch.where(at_start & ends.free, start, first), torch.where(at_end & ends.free, end, last)
    if ends.linear is not False:
        one = torch.ones_like(slope)
        first, last = torch.where(at_start & ends.linear, one, first), torch.where(at_end & ends.linear, one, last)
    return b, first / slope, last / slope


def bins(widths: Tensor, heights: Tensor, ends: Ends, low: float, high: float) -> tuple[Axis, Axis]:
    """The bins along both axes; next to a linear end, a bin's mean slope is above 1/3."""
    width = shares(widths)
    if ends.linear is False:
        height = shares(heights)
    else:
        first_and_last = torch.arange(widths.shape[-1], device=widths.device) % (widths.shape[-1] - 1) == 0
        lifted = (first_and_last & (ends.linear.unsqueeze(-1) if isinstance(ends.linear, Tensor) else ends.linear)).to(heights.dtype)
        given = width * lifted / 3
        height = given + (1 - given.sum(-1, keepdim=True)) * shares(heights + LOG_TWO_THIRDS * lifted)
    return scaled(width, low, high, MIN_WIDTH), scaled(height, low, high, MIN_HEIGHT)


def _steffen(width: Tensor, height: Tensor, next_width: Tensor, next_height: Tensor) -> Tensor:
    """The slope at the knot between two bins."""
    slope, next_slope = height / width, next_height / next_width
    parabola = (slope * next_width + next_slope * width) / (width + next_width)
    return torch.minimum(2 * torch.minimum(slope, next_slope), parabola)
