"""The ends of a spline on the device: beyond ``linear`` ones the identity, else values are taken as the end.

SHAPE begins with (bins, low, high, ends).
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.numbers import clamped


@jit
def joined(given: tl.tensor, made: tl.tensor, steep: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Output and log-slope, of what the spline makes of the values inside and of the values as they were given."""
    made = clamped(made, SHAPE[1], SHAPE[2])
    if SHAPE[3] == "linear":
        inside = (given >= SHAPE[1]) & (given <= SHAPE[2])
        return tl.where(inside, made, given), tl.where(inside, steep, 0.0)
    return made, steep


@jit
def _beyond(given: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Where linear ends pass the value on, and nothing reaches the parameters; NaN is passed on too."""
    return (given < SHAPE[1]) | (given > SHAPE[2]) | (given != given)


@jit
def reached(given: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """For the backward: the values that the spline takes."""
    if SHAPE[3] == "linear":
        return tl.where(_beyond(given, SHAPE), SHAPE[1], given)
    return clamped(given, SHAPE[1], SHAPE[2])


@jit
def received(
    grad_out: tl.tensor,
    grad_slope: tl.tensor,
    given: tl.tensor,
    made: tl.tensor,
    NORMAL: tl.constexpr,
    SHAPE: tl.constexpr,
) -> Any:
    """Cotangents of what the spline makes, of its log-slope, and of values passed on."""
    beyond = _beyond(given, SHAPE)
    if NORMAL:  # the base's log-density hangs on the output
        made = clamped(made, SHAPE[1], SHAPE[2])
        if SHAPE[3] == "linear":
            made = tl.where(beyond, given, made)
        grad_out = grad_out - made * grad_slope
    if SHAPE[3] == "linear":
        return tl.where(beyond, 0.0, grad_out), tl.where(beyond, 0.0, grad_slope), grad_out
    return grad_out, grad_slope, grad_out


@jit
def returned(grad_value: tl.tensor, grad_beyond: tl.tensor, given: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """The cotangent of the values as they were given."""
    if SHAPE[3] == "linear":
        return tl.where(_beyond(given, SHAPE), grad_beyond, grad_value)
    return tl.where((given < SHAPE[1]) | (given > SHAPE[2]), 0.0, grad_value)
