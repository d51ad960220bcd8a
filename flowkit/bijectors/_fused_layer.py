"""Layers that one kernel can run whole: a scalar map under a dense conditioner."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.univariate import FORMULAS, Univariate


class Places(NamedTuple):
    """Which coordinates a conditioner reads, and which are mapped."""

    given: tuple[int, ...]
    mapped: tuple[int, ...]


class Call(NamedTuple):
    """A layer as one call: the op, its tensors, its constants."""

    op: Any
    tensors: tuple[Tensor, ...]
    constants: tuple[Any, ...]


def op_of(univariate: Univariate, inverse: bool) -> tuple[Any, tuple[Any, ...]] | None:
    """``univariate.as_op``, or None where somebody put something in place of this instance's formulas: it is to be called."""
    return univariate.as_op(inverse=inverse) if FORMULAS.isdisjoint(vars(univariate)) else None


def _call(univariate: Univariate, net: Any, value: Tensor, context: Any, places: Places, inverse: bool, base: str) -> Call | None:
    if torch.compiler.is_compiling() or value.device.type != "cpu" or not hasattr(net, "dense_layers"):
        return None
    found = op_of(univariate, inverse)
    if found is None or found[0].conditioned is None:
        return None
    layers = net.dense_layers(context)
    if layers is None:
        return None
    context = value.new_empty(*value.shape[:-1], 0) if context is None else context.to(value.dtype)
    return Call(found[0].conditioned, (value, context, *layers.weights), (*places, layers.activation, *found[1], base))


def fused_layer(
    univariate: Univariate, net: Any, value: Tensor, context: Any, places: Places, *, inverse: bool, base: str = "none"
) -> tuple[Tensor, Tensor] | None:
    """The mapped value (*B, D) and log_det (*B) by one call, or None where the layer must be run part by part.

    Args:
        univariate: the scalar map of the mapped coordinates.
        net: the conditioner.
        value: (*B, D); context: (*B, C) or None.
        base: "normal" adds log N(out; 0, I) to log_det, "none" nothing.
    """
    call = _call(univariate, net, value, context, places, inverse, base)
    return None if call is None else call.op.attempt(call.tensors, call.constants)  # type: ignore[no-any-return]


def fused_carry(
    univariate: Univariate, net: Any, value: Tensor, context: Any, places: Places, score: Tensor, *, inverse: bool
) -> tuple[Tensor, Tensor, Tensor] | None:
    """``fused_layer``, and the score (*B, D) carried along; or None."""
    call = _call(univariate, net, value, context, places, inverse, "none")
    return None if call is None else call.op.carry(call.tensors, call.constants, score)  # type: ignore[no-any-return]
