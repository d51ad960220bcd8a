"""Pairs of particles."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pairs(nn.Module):
    """Squared distances of all pairs i < j: (*B, N, d) -> (*B, N (N - 1) / 2).

    Args:
        particles: N.
    """

    first: Tensor
    second: Tensor

    def __init__(self, particles: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(particles, particles, 1)
        self.register_buffer("first", first.clone(), persistent=False)
        self.register_buffer("second", second.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.index_select(-2, self.first) - x.index_select(-2, self.second)).square().sum(-1)
