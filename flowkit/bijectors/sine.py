"""Sine on its increasing half period."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._pointwise import Pointwise
from flowkit.core.registry import BIJECTORS
from flowkit.kernels.diagonal_steps import inside_ball


@BIJECTORS.register("sine")
class Sine(Pointwise):
    """x = sin(z), [-pi/2, pi/2] to [-1, 1]; its inverse ``~Sine(shape)`` is arcsin.

    The slope cos(z) vanishes at both ends. log_det is taken with the distance to the nearer end, held at the smallest normal
    number there; inputs of the inverse stay off +-1 by a rounding unit. Near the ends the spacing of floats limits the
    round trip to sqrt(eps).

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, domain=(-math.pi / 2, math.pi / 2), codomain=(-1.0, 1.0))

    def _value(self, z: Tensor) -> Tensor:
        return torch.sin(z)

    def _preimage(self, x: Tensor) -> Tensor:
        return torch.asin(inside_ball(x))

    def _log_slope(self, z: Tensor) -> Tensor:
        return log_sine(math.pi / 2 + torch.where(z > 0, -z, z))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Sine]]:
        yield "plain", cls(2)


def log_sine(distance: Tensor) -> Tensor:
    """log sin of a distance in [0, pi/2] to a zero of the sine; rounding may have made it negative."""
    return torch.sin(distance.clamp(min=torch.finfo(distance.dtype).tiny)).log()
