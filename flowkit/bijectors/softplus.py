"""Softplus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from flowkit.bijectors._pointwise import Stepwise
from flowkit.core.registry import BIJECTORS


@BIJECTORS.register("softplus", "to_positive")
class Softplus(Stepwise):
    """x = log(1 + exp(z)), R to (0, inf): linear far to the right, so large values keep their scale (``Exp`` is the other choice).

    Values underflow to the smallest normal number of the dtype below z = -87 (float32) or -708 (float64).

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, codomain=(0.0, torch.inf))

    def _program(self) -> str:
        return "softplus"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Softplus]]:
        yield "plain", cls(2)
