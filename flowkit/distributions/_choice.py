"""Drawing indices by weight."""

from __future__ import annotations

import torch
from torch import Tensor


def choose(weights: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Indices drawn with probability proportional to ``weights`` by inversion: (K) -> (*shape) int64, any number K of them."""
    cumulative = weights.cumsum(0)
    unit = torch.rand(shape, generator=generator, dtype=weights.dtype, device=weights.device)
    # right=True never lands on an index of weight zero; rounding may reach one past the end
    return torch.searchsorted(cumulative, unit * cumulative[-1], right=True).clamp(max=len(weights) - 1)
