"""Logistic sigmoid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flowkit.bijectors._pointwise import Stepwise
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS


@BIJECTORS.register("sigmoid")
class Sigmoid(Stepwise):
    """x = 1 / (1 + exp(-z / temperature)), R to (0, 1); its inverse ``~Sigmoid(shape)`` is the logit.

    Values stay off 0 and 1 by a rounding unit, and so do inputs of the inverse: with temperature 1 the latents of float32
    numbers lie in about [-87.3, 16.6], of float64 numbers in [-708, 36.7]. Near 1 the spacing of floats limits the round trip
    to eps exp(|z|); log_det has no such limit. ``ToBox`` is the same map onto other intervals.

    Args:
        shape: event shape, all sizes known.
        temperature: > 0; small ones are steep.
    """

    def __init__(self, shape: int | Sequence[int], *, temperature: float = 1.0) -> None:
        if not 0 < temperature < math.inf:
            raise ConfigError(f"{type(self).__name__}: expected a finite temperature > 0; got {temperature}.")
        super().__init__(shape, codomain=(0.0, 1.0))
        self.temperature = temperature

    def _program(self) -> str:
        return f"sigmoid:{float(self.temperature)!r}"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Sigmoid]]:
        yield "plain", cls(2)
        yield "image", cls((2, 2, 1), temperature=2.0)
