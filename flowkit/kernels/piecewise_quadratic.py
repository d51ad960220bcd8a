"""The monotone piecewise-quadratic spline as an operation on tensors: the integral of a piecewise-linear slope.

Notation: slopes v_k > 0 at the K + 1 knots, bins of width W_k; bin [X, X + W] -> [Y, Y + H] with slopes v, v' at its ends,
H = W (v + v') / 2, t = (x - X) / W, u = 1 - t. The slope is linear in the bin, so

    dy/dx = v u + v' t      y = Y + W t (v (1 + u) + v' t) / 2

The image is to be as long as the interval, L = sum_k m_k v_k with m_k half the width of the bins that meet at knot k. Raw
heights a_k share it out as a softmax weighted with m, above a floor f (E is the length left by ends whose slope is given as 1):

    v_k = f + (1 - f) E exp(a_k) / sum_j m_j exp(a_j),      E = L - sum of m at the given ends

For the inverse put r = (y - Y) / H. The solution of (v' - v) t^2 + 2 v t = r (v + v') in [0, 1] is

    t = r (v + v') / (v + S),      S = sqrt((1 - r) v^2 + r v'^2) = dy/dx there

Every sum here is of non-negative terms.

Reference: Müller et al. (2019), Neural importance sampling, arXiv:1808.03856, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.kernels.bins import MIN_WIDTH, Bin, bin_of, knots, pick, placed

MIN_SLOPE = 1e-3
GIVEN = -float("inf")  # raw height of a knot whose slope is 1


def spline(x: Tensor, widths: Tensor, heights: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Evaluate the spline at x in [low, high].

    Args:
        x: (*S); widths: raw (*S, K); heights: raw (*S, K + 1), one per knot, or ``GIVEN``.

    Returns:
        y (*S) in [low, high] and log dy/dx (*S).
    """
    b, first, last = _bin(x, widths, heights, low, high, by_height=False)
    t = ((x - b.x) / b.width).clamp(0.0, 1.0)
    u = 1 - t
    y = b.y + 0.5 * b.width * t * (first * (1 + u) + last * t)
    return y.clamp(low, high), torch.log(first * u + last * t)


def inverse_spline(y: Tensor, widths: Tensor, heights: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline`` at y in [low, high]: x (*S) and log dx/dy (*S)."""
    b, first, last = _bin(y, widths, heights, low, high, by_height=True)
    r = ((y - b.y) / b.height).clamp(0.0, 1.0)
    slope = torch.sqrt((1 - r) * first * first + r * last * last)
    t = r * ((first + last) / (first + slope))
    return (b.x + t * b.width).clamp(low, high), -torch.log(slope)


def _bin(value: Tensor, widths: Tensor, heights: Tensor, low: float, high: float, *, by_height: bool) -> tuple[Bin, Tensor, Tensor]:
    """The bin each value falls in, and the slopes at its two ends."""
    x = knots(widths, low, high, MIN_WIDTH)
    slopes = knot_slopes(x.size, heights, high - low)
    y = placed(0.5 * x.size * (slopes[..., :-1] + slopes[..., 1:]), low)
    b = bin_of(value, x, y, by_height=by_height)
    return b, pick(slopes, b.number), pick(slopes, b.number + 1)


def knot_slopes(size: Tensor, heights: Tensor, length: float) -> Tensor:
    """Slopes at the knots (*S, K + 1) for bins of the sizes (*S, K), whose integral is ``length``."""
    share = 0.5 * (functional.pad(size, (0, 1)) + functional.pad(size, (1, 0)))
    given = heights == GIVEN
    left = length - (share * given).sum(-1, keepdim=True)
    part = torch.exp(heights - heights.detach().amax(-1, keepdim=True))
    part = part / (share * part).sum(-1, keepdim=True)
    return torch.where(given, torch.ones_like(part), MIN_SLOPE + (1 - MIN_SLOPE) * left * part)
