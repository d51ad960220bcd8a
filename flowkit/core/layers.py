"""The single maps that a flow is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flowkit.core.algebra.inverse import Inverse
from flowkit.core.algebra.inverse_surjection import InverseSurjection
from flowkit.core.transform import Transform

if TYPE_CHECKING:
    from flowkit.core.flow import Flow


def layers(flow: Flow) -> list[tuple[str, Any]]:
    """The maps from latent to data, chains taken apart: (name, map) in order."""
    return [(name_of(step), step) for whole in flow.maps for step in _flat(whole)]


def name_of(step: Any) -> str:
    """Class of a map, with its univariate; ``~`` before one that is turned around."""
    if isinstance(step, Inverse):
        return f"~{name_of(step.bijector)}"
    if isinstance(step, InverseSurjection):
        return f"~{name_of(step.surjection)}"
    univariate = getattr(step, "univariate", None)
    return type(step).__name__ + (f"[{type(univariate).__name__}]" if univariate is not None else "")


def _flat(step: Transform) -> Iterator[Any]:
    parts = step.parts()
    if parts == [step]:
        yield step
    else:
        for part in parts:
            yield from _flat(part)
