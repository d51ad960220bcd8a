"""Which maps of a flow a first batch of data has to reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowkit.core.layers import layers
from flowkit.core.transform import Transform

if TYPE_CHECKING:
    from flowkit.core.flow import Flow


def steps_to_initialize(flow: Flow) -> list[Any]:
    """The single maps from data on, up to the last that sets state from data, or refuses data outside its domain; what follows need not run."""
    steps = [step for _, step in reversed(layers(flow))]
    while steps and not _looks(steps[-1]):
        steps.pop()
    return steps


def _looks(step: Transform) -> bool:
    return not step.codomain.trivial or any(_sets_state(part) for part in step.modules() if isinstance(part, Transform))


def _sets_state(part: Transform) -> bool:
    """Whether ``initialize`` does more than the call. Our own maps that are made of others only pass it on to them; a user's may do anything."""
    own = type(part).initialize
    if own is Transform.initialize:
        return False
    inside = any(isinstance(other, Transform) for other in part.modules() if other is not part)
    return not inside or not own.__module__.startswith("flowkit.")
