"""Contexts and their absence: what classifier-free guidance trains on.

The absence of a class is the label -1; that of any other context is zeros in place of the embedded context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
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


def draw_dropped(rows: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Which rows are to go without their context, each with that probability: (B, ...) -> (B) bool."""
    return torch.rand(len(rows), generator=generator, device=rows.device) < share


def without_context(flow: Any, context: Any, dropped: Tensor) -> Any:
    """The embedded context, absent in some rows: labels become -1 before they are embedded, other contexts zeros afterwards."""

    def emptied(part: Tensor, none: int) -> Tensor:
        return torch.where(mask_event(dropped, part.dim() - 1), none, part)

    if context is None:
        return flow.embed_context(None)
    embedded = flow.embed_context(map_parts(context, lambda part: part if part.is_floating_point() else emptied(part, -1)))
    parts = context.values() if isinstance(context, Mapping) else (context,)
    if not any(part.is_floating_point() for part in parts):
        return embedded
    return map_parts(embedded, lambda part: emptied(part, 0) if part.is_floating_point() else part)


def checked_share(label_drop: float, who: str) -> float:
    """The probability of an absent context, seen to be a number in [0, 1)."""
    if isinstance(label_drop, bool) or not isinstance(label_drop, int | float) or not 0 <= label_drop < 1:
        raise ConfigError(f"{who}: expected label_drop in [0, 1); got {label_drop!r}.")
    return label_drop


def seen_context(objective: Any, flow: Any, context: Any, rows: Tensor, generator: torch.Generator | None) -> Any:
    """The embedded context as an objective is to see it: while it trains absent in its share ``label_drop`` of the rows, else complete.

    Raises:
        ConfigError: there is a share, but no context.
    """
    if objective.label_drop and context is None:
        who = type(objective).__name__
        raise ConfigError(f"{who}: label_drop needs a context to drop; the batch has none. Pass (x, context), or label_drop=0.")
    if not (objective.label_drop and objective.training):
        return flow.embed_context(context)
    return without_context(flow, context, draw_dropped(rows, objective.label_drop, generator))


def drop_contexts(flow: Any, context: Any, share: float, rows: Tensor, generator: torch.Generator | None) -> Dropped:
    """Drop each row's context with a probability; without a context everything stays None.

    Args:
        flow: knows its ``embed_context``. context: of the batch, or None. share: probability. rows: (B, ...), for their number.
    """
    mask = draw_dropped(rows, share, generator)
    if context is None:
        return Dropped(flow.embed_context(None), None, None, torch.zeros_like(mask))
    given, null = flow.embed_context(context), without_context(flow, context, torch.ones_like(mask))
    return Dropped(given, without_context(flow, context, mask), null, mask)
