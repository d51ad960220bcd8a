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
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MIN_WIDTH = 1e-3
MIN_HEIGHT = 1e-3
MIN_SLOPE = 1e-3
UNIT_SLOPE = math.log(math.expm1(1.0 - MIN_SLOPE))  # raw parameter at which a slope is exactly 1


class Bin(NamedTuple):
    """One bin for every element: left ends, sizes and end slopes, all of the element's shape."""

    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor
    slope: Tensor
    next_slope: Tensor


def spline(x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Evaluate the spline at x in [low, high].

    Args:
        x: (*S); widths, heights: raw (*S, K); slopes: raw (*S, K + 1), one per knot.

    Returns:
        y (*S) in [low, high] and log dy/dx (*S).
    """
    b = _select(x, widths, heights, slopes, low, high, by_height=False)
    t = ((x - b.x) / b.width).clamp(0.0, 1.0)
    y, log_slope = _evaluate(t, b)
    return y.clamp(low, high), log_slope


def inverse_spline(y: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline`` at y in [low, high]: x (*S) and log dx/dy (*S)."""
    b = _select(y, widths, heights, slopes, low, high, by_height=True)
    s = b.height / b.width
    r = ((y - b.y) / b.height).clamp(0.0, 1.0)
    rest = 1 - r
    middle = rest * b.slope - r * b.next_slope
    rising = middle >= 0
    # where, not abs(), whose derivative at 0 is 0
    far = torch.sqrt(middle * middle + 4 * s * s * r * rest) + torch.where(rising, middle, -middle)
    t_part, u_part = torch.where(rising, 2 * s * r, far), torch.where(rising, far, 2 * s * rest)
    t = t_part / (t_part + u_part)
    _, log_slope = _evaluate(t, b)
    return (b.x + t * b.width).clamp(low, high), -log_slope


def _evaluate(t: Tensor, b: Bin) -> tuple[Tensor, Tensor]:
    s = b.height / b.width
    u = 1 - t
    q = t * u
    denominator = s + (b.slope + b.next_slope - 2 * s) * q
    y = b.y + b.height * ((s * t * t + b.slope * q) / denominator)
    numerator = b.next_slope * t * t + 2 * s * q + b.slope * u * u
    ratio = s / denominator
    return y, torch.log(ratio * ratio * numerator)


def _select(value: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, low: float, high: float, *, by_height: bool) -> Bin:
    """The bin each value falls in, with the quantities of that bin."""
    sizes, other = (heights, widths) if by_height else (widths, heights)
    floors = (MIN_HEIGHT, MIN_WIDTH) if by_height else (MIN_WIDTH, MIN_HEIGHT)
    size, knots = _knots(sizes, low, high, floors[0])
    other_size, other_knots = _knots(other, low, high, floors[1])
    index = (value.unsqueeze(-1) >= knots[..., 1:]).sum(-1, keepdim=True)

    def pick(table: Tensor) -> Tensor:
        return table.gather(-1, index).squeeze(-1)

    slope = MIN_SLOPE + functional.softplus(slopes.gather(-1, index).squeeze(-1))
    next_slope = MIN_SLOPE + functional.softplus(slopes.gather(-1, index + 1).squeeze(-1))
    left, wide, bottom, tall = pick(knots), pick(size), pick(other_knots), pick(other_size)
    if by_height:
        left, wide, bottom, tall = bottom, tall, left, wide
    return Bin(left, wide, bottom, tall, slope, next_slope)


def _knots(raw: Tensor, low: float, high: float, floor: float) -> tuple[Tensor, Tensor]:
    """Bin sizes (*S, K) and left ends (*S, K) from raw parameters; sizes sum to high - low."""
    count = raw.shape[-1]
    size = (high - low) * (floor + (1 - floor * count) * torch.softmax(raw, dim=-1))
    left = low + functional.pad(size[..., :-1].cumsum(-1), (1, 0))
    return size, left
