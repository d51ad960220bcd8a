"""Soft clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flowkit.bijectors._pointwise import Stepwise
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.traits import Traits


@BIJECTORS.register("softclip")
class SoftClip(Stepwise):
    """x = z / (1 + |z| / bound), R to (-bound, bound), slope 1 at zero; the inverse is x / (1 - |x| / bound).

    It saturates by a power, not exponentially: float32 resolves latents out to about 1e7 bound. The second derivative jumps
    at zero. Inputs of the inverse stay off the ends by a rounding unit.

    Args:
        shape: event shape, all sizes known.
        bound: > 0.

    Reference: Rozet et al. (2022), Zuko, doi:10.5281/zenodo.7625672.
    """

    traits = Traits(jacobian="diagonal", score="closed", smooth=False)

    def __init__(self, shape: int | Sequence[int], *, bound: float = 5.0) -> None:
        super().__init__(shape)
        self.bound = bound

    @property
    def bound(self) -> float:
        """Where values end; it may be set later."""
        return self._bound

    @bound.setter
    def bound(self, bound: float) -> None:
        """Set it, and the codomain with it."""
        if not 0 < bound < math.inf:
            raise ConfigError(f"{type(self).__name__}: expected a finite bound > 0; got {bound}.")
        before, now = self._codomain, self._box((-bound, bound))
        assert now is not None
        self._bound, self._codomain = bound, now if before is None else now.to(next(before.buffers()))

    def _program(self) -> str:
        return f"softclip:{float(self.bound)!r}"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SoftClip]]:
        yield "plain", cls(2)
