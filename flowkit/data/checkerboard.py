"""The black squares of a checkerboard."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.registry import DATA
from flowkit.data._planar import Planar, choose, uniform


@DATA.register("checkerboard")
class Checkerboard(Planar):
    """Uniform on the 8 black squares of a 4 x 4 board over [-4, 4]^2; without noise its entropy is log 32 nats.

    Args:
        noise: standard deviation of the normal noise.
        train_size, validation_size, test_size: rows of each split.
        seed: of the draws.
    """

    def __init__(
        self, *, noise: float = 0.0, train_size: int = 10_000, validation_size: int = 2_000, test_size: int = 2_000, seed: int = 0
    ) -> None:
        super().__init__(noise=noise, train_size=train_size, validation_size=validation_size, test_size=test_size, seed=seed)

    def _draw(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, None]:
        square = choose(n, 8, generator)
        column = square // 2
        row = 2 * (square % 2) + column % 2
        return 2.0 * (torch.stack([column, row], dim=-1) + uniform((n, 2), generator)) - 4.0, None
