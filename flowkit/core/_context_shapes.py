"""The shapes of a flow's context: what a caller passes, and what the maps see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import ContextShape


def context_shapes(
    bijector: Any, base: Any, embed: nn.Module | None, given: Sequence[int | None] | Mapping[str, Sequence[int | None]] | None, who: str
) -> tuple[ContextShape, ContextShape]:
    """What the maps see once it is embedded, and what a caller passes."""
    parts = [part.context_shape for part in (bijector, base) if part.context_shape is not None]
    if len(parts) == 2 and parts[0] != parts[1]:
        raise ShapeError(f"{who}: bijector and base expect different contexts, {parts[0]} and {parts[1]}.")
    inner = parts[0] if parts else None
    raw: ContextShape = None
    if given is not None:
        if not isinstance(given, Mapping | Sequence):
            raise ConfigError(f"{who}: expected context_shape to be a tuple of sizes, such as (3,); got {given!r}.")
        raw = {key: tuple(shape) for key, shape in given.items()} if isinstance(given, Mapping) else tuple(given)
    if embed is None:
        if raw is not None and raw != inner:
            raise ConfigError(f"{who}: context_shape={raw} needs embed=, a net from it to {inner}.")
        return inner, inner
    if inner is None or raw is None:
        raise ConfigError(f"{who}: embed= needs a conditional bijector or base, and context_shape=, the shape of the raw context.")
    return inner, raw
