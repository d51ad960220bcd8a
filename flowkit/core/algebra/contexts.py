"""How the parts of a composition share one context."""

from __future__ import annotations

from collections.abc import Sequence

from flowkit.core.errors import ShapeError
from flowkit.core.shapes import Context, ContextShape
from flowkit.core.transform import Transform


def shared_context(who: str, transforms: Sequence[Transform]) -> ContextShape:
    """The one context shape that every conditional part declares, or None."""
    declared = [step.context_shape for step in transforms if step.context_shape is not None]
    for other in declared[1:]:
        if other != declared[0]:
            raise ShapeError(f"{who}: its parts expect different contexts, {declared[0]} and {other}. Give all the same context_features.")
    return declared[0] if declared else None


def part(context: Context, step: Transform) -> Context:
    """The context for one part: None when it declares none."""
    return None if step.context_shape is None else context
