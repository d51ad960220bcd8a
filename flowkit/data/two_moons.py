"""Two interleaved half circles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import PlanarClasses, choose, polar, uniform


@DATA.register("two_moons")
class TwoMoons(PlanarClasses):
    """Two interleaved half circles of radius 2.

    Args:
        classes: give each point's moon as context, an int64 label of 2.
        noise: standard deviation of the normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.

    Example:
        >>> from flowkit.data import TwoMoons
        >>> TwoMoons(train_size=100).train.x.shape
        torch.Size([100, 2])
    """

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        moon = choose(n, 2, generator)
        upper = polar(torch.full((n,), 2.0), math.pi * uniform((n,), generator)) - torch.tensor([1.0, 0.5])
        return torch.where((moon == 0)[:, None], upper, -upper), moon
