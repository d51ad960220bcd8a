"""Powers of positive numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._pointwise import Pointwise
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS


@BIJECTORS.register("power")
class Power(Pointwise):
    """x = z^p on (0, inf), for any p but zero; negative ones turn the half-line around.

    log_det = sum(log|p| + (p - 1) log z). At the end, zero, the slope of most powers is zero or infinite: inputs are moved
    inside by the smallest normal number of the dtype, and where a power would leave the dtype's range they are held at the
    last point that does not (no gradient from there on). For both signs see the univariate ``SignedPower``.

    Args:
        shape: event shape, all sizes known.
        exponent: p.
    """

    def __init__(self, shape: int | Sequence[int], *, exponent: float = 2.0) -> None:
        if exponent == 0 or not math.isfinite(exponent):
            raise ConfigError(f"{type(self).__name__}: expected a finite exponent that is not 0; got {exponent}.")
        super().__init__(shape, domain=(0.0, torch.inf), codomain=(0.0, torch.inf))
        self.exponent = exponent

    def _value(self, z: Tensor) -> Tensor:
        return _representable(z, self.exponent).pow(self.exponent)

    def _preimage(self, x: Tensor) -> Tensor:
        return _representable(x, 1 / self.exponent).pow(1 / self.exponent)

    def _log_slope(self, z: Tensor) -> Tensor:
        log = z.clamp(min=torch.finfo(z.dtype).tiny).log()
        return math.log(abs(self.exponent)) + (self.exponent - 1) * log

    def _sign(self) -> float:
        return math.copysign(1.0, self.exponent)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Power]]:
        yield "square", cls(2)
        yield "inverse_root", cls(2, exponent=-0.5)


def _representable(x: Tensor, exponent: float) -> Tensor:
    """Held where both x and x^exponent are normal numbers."""
    info = torch.finfo(x.dtype)
    edge = 0.999 * min(-math.log(info.tiny), math.log(info.max)) / max(1.0, abs(exponent))
    return x.clamp(max(info.tiny, math.exp(-edge)), math.exp(edge))
