"""Eight normal blobs on a circle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import PlanarClasses, choose, polar


@DATA.register("eight_gaussians")
class EightGaussians(PlanarClasses):
    """Eight equal normal blobs whose means lie on a circle of radius 3.

    Args:
        classes: give each point's blob as context, an int64 label of 8.
        noise: standard deviation of a blob.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    def __init__(
        self,
        *,
        classes: bool = False,
        noise: float = 0.35,
        train_size: int = 10_000,
        validation_size: int = 2_000,
        test_size: int = 2_000,
        seed: int = 0,
    ) -> None:
        super().__init__(classes=classes, noise=noise, train_size=train_size, validation_size=validation_size, test_size=test_size, seed=seed)

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        blob = choose(n, 8, generator)
        return polar(torch.full((n,), 3.0), math.pi / 4 * blob), blob
