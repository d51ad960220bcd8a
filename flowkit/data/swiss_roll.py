"""The two-dimensional Swiss roll."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import Planar, polar, uniform


@DATA.register("swiss_roll")
class SwissRoll(Planar):
    """A spiral of one and a half turns, as thick as the noise: the Swiss roll without its width.

    Args:
        noise: standard deviation of the normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, None]:
        angle = 1.5 * math.pi * (1 + 2 * uniform((n,), generator))
        return polar(angle / 4, angle), None
