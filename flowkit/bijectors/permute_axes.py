"""Permutations of the axes of an event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_orthogonal
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("permute_axes")
class PermuteAxes(Bijector):
    """The same numbers with event axes in another order: axis i of x is axis axes[i] of z; log_det = 0.

    Args:
        shape: event shape of z; None for any size.
        axes: a permutation of 0 .. rank - 1; (1, 0) transposes matrices, (1, 2, 0) moves an image's channels last.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import PermuteAxes
        >>> PermuteAxes((2, 1), (1, 0))(torch.tensor([[1.0], [2.0]]))[0].tolist()
        [[1.0, 2.0]]
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)

    def __init__(self, shape: Sequence[int | None], axes: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.axes = tuple(shape), tuple(int(axis) for axis in axes)
        self.in_shape = as_shape(self.shape, "PermuteAxes")
        if sorted(self.axes) != list(range(len(self.in_shape))):
            raise ConfigError(f"PermuteAxes: expected axes to be a permutation of 0 .. {len(self.in_shape) - 1}; got {axes}.")
        self.out_shape = tuple(self.in_shape[axis] for axis in self.axes)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return _permuted(z, self.axes), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return _permuted(x, _back(self.axes)), zeros_log_det(x, self.out_shape)

    _carry = carry_orthogonal

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, PermuteAxes) or following.in_shape != self.out_shape:
            return None
        axes = tuple(self.axes[axis] for axis in following.axes)
        if axes == tuple(range(len(axes))):
            from flowkit.core.algebra import Identity

            return Identity(self.in_shape)
        return PermuteAxes(self.in_shape, axes)

    def inverted(self) -> PermuteAxes:
        return PermuteAxes(self.out_shape, _back(self.axes))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, PermuteAxes]]:
        yield "transpose", cls((2, 3), (1, 0))
        yield "channels_last", cls((2, None, None), (1, 2, 0))


def _permuted(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    batch = value.dim() - len(axes)
    return value.permute((*range(batch), *(batch + axis for axis in axes)))


def _back(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(axis) for axis in range(len(axes)))
