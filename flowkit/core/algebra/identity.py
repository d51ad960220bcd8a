"""The identity map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Shape, as_shape, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("identity")
class Identity(Bijector):
    """x = z, log_det = 0.

    Args:
        shape: event shape; entries may be None.
    """

    traits = Traits(jacobian="diagonal", score="closed", volume_preserving=True)

    def __init__(self, shape: int | tuple[int | None, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.in_shape: Shape = as_shape(shape, "Identity")
        self.out_shape = self.in_shape

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z, zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return x, zeros_log_det(x, self.in_shape)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return value, zeros_log_det(value, self.in_shape), score

    def merge(self, following: Transform) -> Transform | None:
        return following

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Identity]]:
        yield "vector", cls((3,))
        yield "image", cls((2, None, None))
