"""A batch of events and contexts as rows, as solvers take it, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from flowkit.core.shapes import Context, ContextShape, Shape, batch_shape


class Rows:
    """Events (*B, *event) as (R, *event), every part of the context as (R, *its shape).

    Args:
        value: (*B, *event); event: its event shape.
        context: broadcast to B already; shape: its declared shape.
    """

    def __init__(self, value: Tensor, event: Shape, context: Context, shape: ContextShape) -> None:
        self.batch, self.event, self.shape = batch_shape(value, event), tuple(value.shape[value.dim() - len(event) :]), shape
        self.value = value.reshape(self.batch.numel(), *self.event)
        self.size = self.value.shape[1:].numel()
        self.parts: tuple[Tensor, ...] = tuple(self._flat(part, rank) for part, rank in _leaves(context, shape))

    def _flat(self, part: Tensor, rank: int) -> Tensor:
        return part.reshape(self.batch.numel(), *part.shape[part.dim() - rank :])

    def flat_probes(self, probes: Tensor | None) -> Tensor | None:
        """(*B, S, *event) -> (R, S, *event)."""
        return None if probes is None else self._flat(probes, len(self.event) + 1)

    def context(self, parts: Sequence[Tensor]) -> Context:
        """The context again, from its parts in rows."""
        return _rebuild(list(parts), self.shape)

    def restore(self, value: Tensor) -> Tensor:
        """(..., R, *event) -> (..., *B, *event)."""
        return self.restore_rows(value, len(self.event))

    def restore_rows(self, value: Tensor, rank: int) -> Tensor:
        """(..., R, *shape of that rank) -> (..., *B, *shape)."""
        split = value.dim() - rank
        return value.reshape((*value.shape[: split - 1], *self.batch, *value.shape[split:]))


def _leaves(context: Context, shape: ContextShape) -> list[tuple[Tensor, int]]:
    if context is None or shape is None:
        return []
    if isinstance(shape, dict):
        assert isinstance(context, Mapping)
        return [leaf for key, part in shape.items() for leaf in _leaves(context[key], part)]
    assert isinstance(context, Tensor)
    return [(context, len(shape))]


def _rebuild(parts: list[Tensor], shape: Any) -> Any:
    if shape is None:
        return None
    if isinstance(shape, dict):
        return {key: _rebuild(parts, part) for key, part in shape.items()}
    return parts.pop(0)
