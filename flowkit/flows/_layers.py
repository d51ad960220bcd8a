"""How recipes stack their layers."""

from __future__ import annotations

from collections.abc import Callable

from flowkit.bijectors import Chain, LULinear
from flowkit.core.shapes import positive
from flowkit.core.transform import Bijector


def alternating_mask(features: int, layer: int) -> tuple[bool, ...]:
    """Every other coordinate is mapped, the other half in the next layer; a single coordinate is always mapped."""
    return tuple(features == 1 or (i + layer) % 2 == 1 for i in range(features))


def alternating_order(features: int, layer: int) -> tuple[int, ...]:
    """The order as given, then turned around."""
    return tuple(range(features)) if layer % 2 == 0 else tuple(reversed(range(features)))


def stack(who: str, layers: int, layer: Callable[[int], Bijector], *, linear: int = 0) -> Chain:
    """A chain of ``layers`` layers, with an LU linear map of ``linear`` coordinates before each if asked."""
    steps: list[Bijector] = []
    for i in range(positive(layers, who, "layers")):
        if linear:
            steps.append(LULinear(linear))
        steps.append(layer(i))
    return Chain(steps)
