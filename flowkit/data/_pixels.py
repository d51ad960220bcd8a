"""What pictures of 256 levels share."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256
NOISE_STEPS = 2**15


def dequantized_pixels(pixels: Tensor, seed: int, *, noise: bool) -> Tensor:
    """Levels k in 0..255, uint8, as x = (k + u) / 256 in (0, 1), float32; u uniform on a fine grid, or 1/2.

    On the grid u = (j + 1/2) / 2^15 nothing is rounded, and x keeps off the ends of the interval, where a map from the box has no inverse.
    """
    x = pixels.float()
    if noise:
        x += (torch.randint(NOISE_STEPS, pixels.shape, generator=torch.Generator().manual_seed(seed)).float() + 0.5) / NOISE_STEPS
    else:
        x += 0.5
    return x / LEVELS
