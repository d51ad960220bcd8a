"""Exponential."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from flowkit.bijectors._pointwise import Stepwise
from flowkit.core.registry import BIJECTORS


@BIJECTORS.register("exp")
class Exp(Stepwise):
    """x = exp(z), R to (0, inf); its inverse ``~Exp(shape)`` is the logarithm.

    Values saturate at the largest and smallest normal numbers of the dtype (|z| > 87 in float32, 708 in float64), with no
    gradient from there on; log_det = sum(z) has no limits.

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, codomain=(0.0, torch.inf))

    def _program(self) -> str:
        return "exp"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Exp]]:
        yield "plain", cls(2)
