"""Contexts and their absence: what classifier-free guidance trains on.

The absence of a class is the label -1; that of any other context is zeros in place of the embedded context.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.shapes import mask_event
from flowkit.objectives._ends import map_parts


class Dropped(NamedTuple):
    """Embedded contexts of a batch.

    Attributes:
        given: every row's own. seen: with those of some rows dropped. null: with all dropped. mask: the rows dropped, (B).
    """

    given: Any
    seen: Any
    null: Any
    mask: Tensor


def drop_contexts(flow: Any, context: Any, share: float, rows: Tensor, generator: torch.Generator | None) -> Dropped:
    """Drop each row's context with a probability; without a context everything stays None.

    Args:
        flow: knows its ``embed_context``. context: of the batch, or None. share: probability. rows: (B, ...), for their number.
    """
    device, n = rows.device, len(rows)
    mask = torch.rand(n, generator=generator, device=device) < share
    if context is None:
        return Dropped(flow.embed_context(None), None, None, torch.zeros_like(mask))
    if isinstance(context, Tensor) and not context.is_floating_point():
        none = torch.full_like(context, -1)
        given, seen, null = (flow.embed_context(labels) for labels in (context, torch.where(mask, none, context), none))
        return Dropped(given, seen, null, mask)
    given = flow.embed_context(context)
    return Dropped(given, map_parts(given, lambda part: part * mask_event(~mask, part.dim() - 1)), map_parts(given, torch.zeros_like), mask)
