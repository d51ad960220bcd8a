"""Exponential."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._pointwise import Pointwise
from flowkit.core.registry import BIJECTORS


@BIJECTORS.register("exp")
class Exp(Pointwise):
    """x = exp(z), R to (0, inf); its inverse ``~Exp(shape)`` is the logarithm.

    Values saturate at the largest and smallest normal numbers of the dtype (|z| > 87 in float32, 708 in float64), with no
    gradient from there on; log_det = sum(z) has no limits.

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, codomain=(0.0, torch.inf))

    def _value(self, z: Tensor) -> Tensor:
        info = torch.finfo(z.dtype)
        # a little short of the logarithms of the ends, which may round outwards
        return torch.exp(z.clamp(math.log(info.tiny) * (1 - 4 * info.eps), math.log(info.max) * (1 - 4 * info.eps)))

    def _preimage(self, x: Tensor) -> Tensor:
        return x.clamp(min=torch.finfo(x.dtype).tiny).log()

    def _log_slope(self, z: Tensor) -> Tensor:
        return z

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Exp]]:
        yield "plain", cls(2)
