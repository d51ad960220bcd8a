"""Discrete cosine transform."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi, sqrt
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_orthogonal
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.precision import full_precision


@BIJECTORS.register("dct")
class DCT(Bijector):
    """Orthonormal DCT-II along event axes, x_k = s_k sum_n cos(pi (2 n + 1) k / (2 N)) z_n with s_0 = sqrt(1 / N), else sqrt(2 / N).

    The inverse is the DCT-III, log_det = 0. Both directions cost N products an entry and axis; the matrix is computed at
    every call, so that it is exact in the input's dtype.

    Args:
        shape: event shape, entries None for any size.
        axes: event axes to transform; default the one of a vector, and all but axis 0 (the channels) otherwise.

    Reference: Ahmed, Natarajan and Rao (1974), Discrete cosine transform.
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)

    def __init__(self, shape: int | Sequence[int | None], *, axes: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape, self.axes = shape, axes
        self.in_shape = self.out_shape = as_shape(shape, "DCT")
        rank = len(self.in_shape)
        chosen = list(range(1 if rank > 1 else 0, rank)) if axes is None else [int(axis) for axis in axes]
        if not chosen or any(not -rank <= axis < rank for axis in chosen):
            raise ConfigError(f"DCT: expected axes among 0 .. {rank - 1}; got {chosen}.")
        self._axes = sorted({axis % rank - rank for axis in chosen})  # counted from the end, so that the batch is free
        if len(self._axes) != len(chosen):
            raise ConfigError(f"DCT: expected distinct axes; got {chosen}.")

    def _run(self, value: Tensor, inverse: bool) -> Tensor:
        with full_precision(value):
            for axis in self._axes:
                matrix = _cosines(value.shape[axis], value)
                value = (value.movedim(axis, -1) @ (matrix if inverse else matrix.mT)).movedim(-1, axis)
        return value

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, inverse=False), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, inverse=True), zeros_log_det(x, self.out_shape)

    _carry = carry_orthogonal

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DCT]]:
        yield "image", cls((2, None, None))
        yield "vector", cls(3)
        yield "rows", cls((2, 2, 3), axes=(-1,))


def _cosines(size: int, like: Tensor) -> Tensor:
    """The orthonormal DCT-II matrix (N, N), row k the frequency."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    steps = torch.arange(size, device=like.device)
    turns = (steps[:, None] * (2 * steps + 1)) % (4 * size)  # whole turns taken off as integers, before any rounding
    waves = torch.cos(turns.to(dtype) * (pi / (2 * size))) * sqrt(2 / size)
    return torch.where(steps[:, None] == 0, waves / sqrt(2), waves).to(like.dtype)
