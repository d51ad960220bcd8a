"""Hyperbolic tangent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowkit.bijectors._pointwise import Stepwise
from flowkit.core.registry import BIJECTORS


@BIJECTORS.register("tanh")
class Tanh(Stepwise):
    """x = tanh(z), R to (-1, 1); its inverse ``~Tanh(shape)`` is atanh.

    Values and inputs of the inverse stay off +-1 by a rounding unit: latents of float32 numbers lie within 8.7, of float64
    within 18.7. Near the ends the spacing of floats limits the round trip to eps exp(2 |z|); log_det has no such limit.

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, codomain=(-1.0, 1.0))

    def _program(self) -> str:
        return "tanh"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Tanh]]:
        yield "plain", cls(2)
