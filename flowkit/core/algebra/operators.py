"""Powers of a bijector."""

from __future__ import annotations

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import show
from flowkit.core.transform import Bijector


def power(bijector: Bijector, n: int) -> Bijector:
    """``f ** n`` with shared weights: n copies of the same module in a chain.

    Raises:
        ShapeError: f does not keep its shape, so it cannot follow itself.
    """
    from flowkit.core.algebra.chain import Chain
    from flowkit.core.algebra.identity import Identity

    if not isinstance(n, int) or isinstance(n, bool):
        raise ConfigError(f"{bijector.who} ** n: expected an int; got {n!r}.")
    if n == 1:
        return bijector
    if n == -1:
        return ~bijector
    if bijector.in_shape != bijector.out_shape:
        raise ShapeError(f"{bijector.who} ** {n}: maps {show(bijector.in_shape)} to {show(bijector.out_shape)} and cannot follow itself.")
    if n == 0:
        return Identity(bijector.in_shape)
    return Chain([bijector if n > 0 else ~bijector] * abs(n))
