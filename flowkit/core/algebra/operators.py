"""Composition and powers: what the operators of maps build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import plain_int, show
from flowkit.core.transform import Bijector, Transform


def compose(transforms: Sequence[Transform], memory: Any = "store") -> Transform:
    """``f >> g >> ...``: a ``Chain`` of bijectors, or a ``SurjectiveChain`` where one of them is a surjection."""
    from flowkit.core.algebra.chain import Chain
    from flowkit.core.algebra.surjective_chain import SurjectiveChain
    from flowkit.core.surjection import Surjection

    if any(isinstance(step, Surjection) for step in transforms):
        return SurjectiveChain(transforms)
    return Chain(transforms, memory=memory)  # type: ignore[arg-type]


def follow(first: Transform, second: Transform) -> Transform:
    """``first >> second`` with compositions on either side taken apart; recomputing activations is kept if either does it."""
    from flowkit.core.algebra.sequence import TransformSequence

    sides = [side for side in (first, second) if isinstance(side, TransformSequence)]
    parts = [step for side in (first, second) for step in (side if isinstance(side, TransformSequence) else [side])]
    return compose(parts, "invert" if any(side.memory == "invert" for side in sides) else "store")


def power(bijector: Bijector, n: int) -> Bijector:
    """``f ** n`` with shared weights: n copies of the same module in a chain.

    Raises:
        ShapeError: f does not keep its shape, so it cannot follow itself.
    """
    from flowkit.core.algebra.chain import Chain
    from flowkit.core.algebra.identity import Identity

    times = plain_int(n)
    if times is None:
        raise ConfigError(f"{bijector.who} ** n: expected an int; got {n!r}.")
    n = times
    if n == 1:
        return bijector
    if n == -1:
        return ~bijector
    if bijector.in_shape != bijector.out_shape:
        raise ShapeError(f"{bijector.who} ** {n}: maps {show(bijector.in_shape)} to {show(bijector.out_shape)} and cannot follow itself.")
    if n == 0:
        return Identity(bijector.in_shape)
    return Chain([bijector if n > 0 else ~bijector] * abs(n))
