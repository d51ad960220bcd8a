"""Layers that one kernel can run whole: a scalar map under a dense conditioner."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.univariate import Univariate


class Places(NamedTuple):
    """Which coordinates a conditioner reads, and which are mapped."""

    given: tuple[int, ...]
    mapped: tuple[int, ...]


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
    if torch.compiler.is_compiling() or value.device.type != "cpu" or not hasattr(net, "dense_layers"):
        return None
    found = univariate.as_op(inverse=inverse)
    if found is None or found[0].conditioned is None:
        return None
    layers = net.dense_layers(context)
    if layers is None:
        return None
    context = value.new_empty(*value.shape[:-1], 0) if context is None else context.to(value.dtype)
    tensors = (value, context, *layers.weights)
    return found[0].conditioned.attempt(tensors, (*places, layers.activation, *found[1], base))  # type: ignore[no-any-return]
