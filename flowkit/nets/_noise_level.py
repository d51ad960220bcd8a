"""Features of a noise level, or of a time, in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEATURES = 8


def noise_features(level: Tensor) -> Tensor:
    """Cosines of k pi level, k = 0 .. 7, which tell the ends of [0, 1] apart: (*B) -> (*B, 8)."""
    frequencies = math.pi * torch.arange(FEATURES, dtype=level.dtype, device=level.device)
    return (level.unsqueeze(-1) * frequencies).cos()
