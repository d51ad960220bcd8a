"""The piecewise-linear spline as an operation on tensors: K bins of equal width, each rising by its own height.

    bin [X, X + W] -> [Y, Y + H],      t = (x - X) / W      y = Y + H t      dy/dx = H / W

Reference: Müller et al. (2019), Neural importance sampling, arXiv:1808.03856, section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.kernels.bins import MIN_HEIGHT, Axis, Bin, bin_of, knots, placed


def spline(x: Tensor, heights: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Evaluate the spline at x in [low, high].

    Args:
        x: (*S); heights: raw (*S, K).

    Returns:
        y (*S) in [low, high] and log dy/dx (*S).
    """
    b = _bin(x, heights, low, high, by_height=False)
    t = ((x - b.x) / b.width).clamp(0.0, 1.0)
    return (b.y + t * b.height).clamp(low, high), torch.log(b.height / b.width)


def inverse_spline(y: Tensor, heights: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``spline`` at y in [low, high]: x (*S) and log dx/dy (*S)."""
    b = _bin(y, heights, low, high, by_height=True)
    t = ((y - b.y) / b.height).clamp(0.0, 1.0)
    return (b.x + t * b.width).clamp(low, high), -torch.log(b.height / b.width)


def _bin(value: Tensor, heights: Tensor, low: float, high: float, *, by_height: bool) -> Bin:
    x: Axis = placed(torch.full_like(heights, (high - low) / heights.shape[-1]), low)
    return bin_of(value, x, knots(heights, low, high, MIN_HEIGHT), by_height=by_height)
