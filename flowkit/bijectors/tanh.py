"""Hyperbolic tangent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._pointwise import Pointwise, inside_ball
from flowkit.core.registry import BIJECTORS
from flowkit.numerics.activations import log_sech


@BIJECTORS.register("tanh")
class Tanh(Pointwise):
    """x = tanh(z), R to (-1, 1); its inverse ``~Tanh(shape)`` is atanh.

    Values and inputs of the inverse stay off +-1 by a rounding unit: latents of float32 numbers lie within 8.7, of float64
    within 18.7. Near the ends the spacing of floats limits the round trip to eps exp(2 |z|); log_det has no such limit.

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, codomain=(-1.0, 1.0))

    def _value(self, z: Tensor) -> Tensor:
        return inside_ball(torch.tanh(z))

    def _preimage(self, x: Tensor) -> Tensor:
        return torch.atanh(inside_ball(x))

    def _log_slope(self, z: Tensor) -> Tensor:
        return 2 * log_sech(z)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Tanh]]:
        yield "plain", cls(2)
