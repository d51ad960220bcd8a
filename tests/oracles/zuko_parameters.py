"""zuko's spline in our parameters: it shrinks its own before the softmax, so ours are recovered from its knots and slopes."""

from __future__ import annotations

import torch
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform

from flowkit.kernels.rational_quadratic import MIN_HEIGHT, MIN_SLOPE, MIN_WIDTH


def raw_parameters(spline: MonotonicRQSTransform) -> Tensor:
    """(*S, 3 K - 1): raw widths, heights and inner slopes."""
    widths, heights = _raw_sizes(spline.horizontal, MIN_WIDTH), _raw_sizes(spline.vertical, MIN_HEIGHT)
    slopes = (spline.derivatives[..., 1:-1] - MIN_SLOPE).expm1().log()
    return torch.cat([widths, heights, slopes], dim=-1)


def _raw_sizes(knots: Tensor, floor: float) -> Tensor:
    share = knots.diff(dim=-1) / (knots[..., -1:] - knots[..., :1])
    bins = share.shape[-1]
    assert bool((share > floor).all()), "zuko's bins are narrower than our floor"
    return ((share - floor) / (1 - floor * bins)).log()
