"""Changes of event shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_orthogonal
from flowkit.core.errors import ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, show, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("reshape")
class Reshape(Bijector):
    """The same numbers in another event shape, in row-major order; log_det = 0.

    Args:
        source, target: event shapes with equal numbers of entries, all sizes known.
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)

    def __init__(self, source: Sequence[int], target: Sequence[int]) -> None:
        super().__init__()
        self.source, self.target = tuple(source), tuple(target)
        self.in_shape, self.out_shape = as_shape(self.source, "Reshape"), as_shape(self.target, "Reshape")
        if None in self.in_shape or None in self.out_shape or prod(self.source) != prod(self.target):
            raise ShapeError(f"Reshape: expected two known shapes with equally many entries; got {show(self.in_shape)} and {show(self.out_shape)}.")

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z.reshape(*z.shape[: z.dim() - len(self.source)], *self.target), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return x.reshape(*x.shape[: x.dim() - len(self.target)], *self.source), zeros_log_det(x, self.out_shape)

    _carry = carry_orthogonal

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Reshape):
            return None
        if following.target == self.source:
            from flowkit.core.algebra import Identity

            return Identity(self.source)
        return Reshape(self.source, following.target)

    def inverted(self) -> Reshape:
        return Reshape(self.target, self.source)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Reshape]]:
        yield "image_to_vector", cls((1, 2, 2), (4,))
