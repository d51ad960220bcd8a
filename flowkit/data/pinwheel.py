"""A pinwheel of five bent arms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import PlanarClasses, choose, normal


@DATA.register("pinwheel")
class Pinwheel(PlanarClasses):
    """Five arms: normal blobs stretched along the radius and sheared by an angle that grows with it.

    Args:
        classes: give each point's arm as context, an int64 label of 5.
        noise: standard deviation of further normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.

    Reference:
        Johnson et al. (2016), Composing graphical models with neural networks, arXiv:1603.06277.
    """

    def __init__(
        self,
        *,
        classes: bool = False,
        noise: float = 0.0,
        train_size: int = 10_000,
        validation_size: int = 2_000,
        test_size: int = 2_000,
        seed: int = 0,
    ) -> None:
        super().__init__(classes=classes, noise=noise, train_size=train_size, validation_size=validation_size, test_size=test_size, seed=seed)

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        arm = choose(n, 5, generator)
        along, across = (normal((n, 2), generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])).unbind(-1)
        angle = 2 * math.pi / 5 * arm + 0.25 * along.exp()
        cos, sin = angle.cos(), angle.sin()
        return 2 * torch.stack([along * cos - across * sin, along * sin + across * cos], dim=-1), arm
