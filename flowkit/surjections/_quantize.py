"""Rounding to a grid."""

from __future__ import annotations

from torch import Tensor


def quantize(z: Tensor, levels: int) -> Tensor:
    """The value 0 .. levels - 1 whose unit interval holds z, the outermost ones for everything beyond; NaN stays NaN."""
    return z.floor().clamp(0, levels - 1)
