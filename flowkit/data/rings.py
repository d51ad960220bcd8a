"""Four concentric rings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import PlanarClasses, choose, polar, uniform


@DATA.register("rings")
class Rings(PlanarClasses):
    """Four concentric rings of radius 1 to 4, equally likely: the density falls with the radius.

    Args:
        classes: give each point's ring as context, an int64 label of 4.
        noise: standard deviation of the normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        ring = choose(n, 4, generator)
        return polar(1.0 + ring, 2 * math.pi * uniform((n,), generator)), ring
