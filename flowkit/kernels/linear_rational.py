"""The monotone linear-rational spline as an operation on tensors: two Möbius maps in each bin, joined where the slopes agree.

Notation: bin [X, X + W] -> [Y, Y + H] with slopes d, d' at its ends, s = H / W, split at the share l of its width. The paper's
weights w at the left end, the split and the right end, divided by a common factor, are

    sqrt(d'),  sqrt(d d') m / s,  sqrt(d)      with  m = (1 - l) sqrt(d') + l sqrt(d)

and put the split at the share l sqrt(d) / m of the height. Seen from the end it belongs to, each half is the same map: with
l, d of that end (1 - l, d' from the right), k = sqrt(d) m / s and the distances from the end over the sizes of the half,

    h = k t / D,      D = 1 - t + k t,      dy/dx = d / D^2
    t = h / Q,        Q = h + k (1 - h),    D = k / Q

Every sum here is of non-negative terms.

Reference: Dolatabadi et al. (2020), Invertible generative modeling using linear rational splines, arXiv:2001.05168, section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.kernels.bins import Bin, pick
from flowkit.kernels.rational_quadratic import steep_bin

MIN_SHARE = 0.025  # smallest part of a bin's width on either side of its split


class Half(NamedTuple):
    """The part of a bin that a value is in, seen from the end it touches: its shares of width and height, slope d and k."""

    width: Tensor
    height: Tensor
    slope: Tensor
    ratio: Tensor


def spline(x: Tensor, widths: Tensor, heights: Tensor, splits: Tensor, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Evaluate the spline at x in [low, high].

    Args:
        x: (*S); widths, heights, splits: raw (*S, K); slopes: raw (*S, K + 1), one per knot.

    Returns:
        y (*S) in [low, high] and log dy/dx (*S).
    """
    b, first, last = steep_bin(x, widths, heights, slopes, low, high, by_height=False)
    split = _split(splits, b)
    t = ((x - b.x) / b.width).clamp(0.0, 1.0)
    left = t <= split
    half = _half(left, split, b, first, last)
    part = (torch.where(left, t, 1 - t) / half.width).clamp(max=1.0)
    divisor = 1 - part + half.ratio * part
    share = half.height * (half.ratio * part / divisor)
    y = b.y + b.height * torch.where(left, share, 1 - share)
    return y.clamp(low, high), torch.log(half.slope) - 2 * torch.log(divisor)


def inverse_spline(y: Tensor, widths: Tensor, heights: Tensor, splits: Tensor, slopes: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline`` at y in [low, high]: x (*S) and log dx/dy (*S)."""
    b, first, last = steep_bin(y, widths, heights, slopes, low, high, by_height=True)
    split = _split(splits, b)
    r = ((y - b.y) / b.height).clamp(0.0, 1.0)
    left_weight, right_weight = split * torch.sqrt(first), (1 - split) * torch.sqrt(last)
    left = r * (left_weight + right_weight) <= left_weight
    half = _half(left, split, b, first, last)
    part = (torch.where(left, r, 1 - r) / half.height).clamp(max=1.0)
    divisor = part + half.ratio * (1 - part)
    share = half.width * (part / divisor)
    t = torch.where(left, share, 1 - share)
    return (b.x + t * b.width).clamp(low, high), 2 * torch.log(half.ratio / divisor) - torch.log(half.slope)


def _split(splits: Tensor, b: Bin) -> Tensor:
    return MIN_SHARE + (1 - 2 * MIN_SHARE) * torch.sigmoid(pick(splits, b.number))


def _half(left: Tensor, split: Tensor, b: Bin, first: Tensor, last: Tensor) -> Half:
    """The left or right part of a bin."""
    at_first, at_last = torch.sqrt(first), torch.sqrt(last)
    width, slope, at_end = torch.where(left, split, 1 - split), torch.where(left, first, last), torch.where(left, at_first, at_last)
    middle = (1 - split) * at_last + split * at_first
    ratio = at_end * middle * (b.width / b.height)
    return Half(width, width * at_end / middle, slope, ratio)
