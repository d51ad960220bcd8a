"""Softplus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._pointwise import Pointwise
from flowkit.core.registry import BIJECTORS
from flowkit.numerics.activations import softplus_inverse


@BIJECTORS.register("softplus", "to_positive")
class Softplus(Pointwise):
    """x = log(1 + exp(z)), R to (0, inf): linear far to the right, so large values keep their scale (``Exp`` is the other choice).

    Values underflow to the smallest normal number of the dtype below z = -87 (float32) or -708 (float64).

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, codomain=(0.0, torch.inf))

    def _value(self, z: Tensor) -> Tensor:
        return functional.softplus(z, threshold=40.0).clamp(min=torch.finfo(z.dtype).tiny)

    def _preimage(self, x: Tensor) -> Tensor:
        return softplus_inverse(x)

    def _log_slope(self, z: Tensor) -> Tensor:
        return functional.logsigmoid(z)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Softplus]]:
        yield "plain", cls(2)
