"""Soft clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flowkit.bijectors._pointwise import Pointwise
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.traits import Traits


@BIJECTORS.register("softclip")
class SoftClip(Pointwise):
    """x = z / (1 + |z| / bound), R to (-bound, bound), slope 1 at zero; the inverse is x / (1 - |x| / bound).

    It saturates by a power, not exponentially: float32 resolves latents out to about 1e7 bound. The second derivative jumps
    at zero. Inputs of the inverse stay off the ends by a rounding unit.

    Args:
        shape: event shape, all sizes known.
        bound: > 0.

    Reference: Rozet et al. (2022), Zuko, doi:10.5281/zenodo.7625672.
    """

    traits = Traits(jacobian="diagonal", smooth=False)

    def __init__(self, shape: int | Sequence[int], *, bound: float = 5.0) -> None:
        if not 0 < bound < math.inf:
            raise ConfigError(f"{type(self).__name__}: expected a finite bound > 0; got {bound}.")
        super().__init__(shape, codomain=(-bound, bound), step=f"softclip:{float(bound)!r}")
        self.bound = bound

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SoftClip]]:
        yield "plain", cls(2)
