"""Two concentric circles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import PlanarClasses, choose, polar, uniform


@DATA.register("circles")
class Circles(PlanarClasses):
    """Two concentric circles of radius 1.5 and 3.

    Args:
        classes: give each point's circle as context, an int64 label of 2.
        noise: standard deviation of the normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        circle = choose(n, 2, generator)
        return polar(1.5 * (circle + 1), 2 * math.pi * uniform((n,), generator)), circle
