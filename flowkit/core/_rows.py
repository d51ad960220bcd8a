"""Rows of a flow's input: which of them a density reaches, and contexts cut to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.shapes import (
    Context,
    ContextShape,
    Shape,
    batch_shape,
    broadcast_batch,
    expand_context,
    mask_event,
    positive,
    sum_event,
)


def reachable(x: Tensor, event: Shape) -> tuple[Tensor, Tensor]:
    """Split off points so far out that their squares overflow: a normal density is zero there, and maps would make NaN of them."""
    fixed = x.detach()
    squares = sum_event(fixed * fixed, len(event))  # a sum, because ``all`` over short rows is slow on CPUs
    near = squares < torch.finfo(squares.dtype).max
    return near, torch.where(mask_event(near, len(event)), x, torch.zeros_like(x))


def map_context(context: Context, shape: ContextShape, change: Callable[[Tensor, Any], Tensor]) -> Context:
    """Change every part of a context; ``change`` gets the part and its event shape."""
    if context is None or shape is None:
        return None
    if isinstance(shape, dict):
        return {key: map_context(context[key], part, change) for key, part in shape.items()}  # type: ignore
    return change(context, shape)  # type: ignore[arg-type]


def in_chunks(call: Callable[[Tensor, Context], Tensor], x: Tensor, event: Shape, context: Context, shape: ContextShape, size: int, who: str) -> Tensor:
    """Evaluate ``call`` on slices of the flattened batch: x (*B, *event) and a context of that shape, ``size`` events at a time."""
    size, rank = positive(size, who, "batch_size"), len(event)
    x = broadcast_batch(x, event, context, shape, who)
    batch = batch_shape(x, event)
    rows = x.reshape(-1, *x.shape[x.dim() - rank :])
    flat = map_context(expand_context(context, shape, batch), shape, lambda part, own: part.reshape(-1, *part.shape[part.dim() - len(own) :]))
    cuts = [slice(start, start + size) for start in range(0, max(len(rows), 1), size)]
    out = torch.cat([call(rows[cut], map_context(flat, shape, lambda part, _: part[cut])) for cut in cuts])  # noqa: B023
    return out.reshape((*batch, *out.shape[1:]))
