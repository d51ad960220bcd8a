"""Cosine on its decreasing half period."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._pointwise import Pointwise
from flowkit.bijectors.sine import log_sine
from flowkit.core.registry import BIJECTORS
from flowkit.kernels.diagonal_steps import inside_ball


@BIJECTORS.register("cosine")
class Cosine(Pointwise):
    """x = cos(z), [0, pi] to [-1, 1], decreasing; its inverse ``~Cosine(shape)`` is arccos. Limits at the ends as for ``Sine``.

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, domain=(0.0, math.pi), codomain=(-1.0, 1.0))

    def _value(self, z: Tensor) -> Tensor:
        return torch.cos(z)

    def _preimage(self, x: Tensor) -> Tensor:
        return torch.acos(inside_ball(x))

    def _log_slope(self, z: Tensor) -> Tensor:
        return log_sine(torch.where(z > math.pi / 2, math.pi - z, z))

    def _sign(self) -> float:
        return -1.0

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Cosine]]:
        yield "plain", cls(2)
