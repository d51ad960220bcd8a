"""Two interleaved spirals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import PlanarClasses, choose, polar, uniform


@DATA.register("two_spirals", "spirals")
class TwoSpirals(PlanarClasses):
    """Two spirals of one and a half turns, each the other turned by half a circle.

    Args:
        classes: give each point's spiral as context, an int64 label of 2.
        noise: standard deviation of the normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        spiral = choose(n, 2, generator)
        angle = 3 * math.pi * uniform((n,), generator).sqrt()
        return polar(angle / 3, angle + math.pi * spiral), spiral
