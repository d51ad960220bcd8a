"""Rewriting a map into an equal one with fewer parts."""

from __future__ import annotations

from flowkit.core.algebra.chain import Chain
from flowkit.core.algebra.concat import Concat
from flowkit.core.algebra.identity import Identity
from flowkit.core.algebra.indexed import Indexed
from flowkit.core.algebra.inverse import Inverse
from flowkit.core.transform import Bijector, Transform


def simplify(transform: Transform) -> Transform:
    """Flatten chains, push inverses inwards, cancel and merge neighbours. Never changes the function.

    Parts that were not merged are the same modules as before; merged ones hold copies of the parameters.
    """
    if not isinstance(transform, Bijector):
        return transform
    parts = _merged(_flat(transform))
    if not parts:
        return Identity(transform.in_shape)
    inverting = any(isinstance(module, Chain) and module.memory == "invert" for module in transform.modules())
    return parts[0] if len(parts) == 1 else Chain(parts, memory="invert" if inverting else "store")


def _flat(transform: Bijector) -> list[Bijector]:
    """The parts a map is a chain of, inverses pushed to single maps, identities left out."""
    if isinstance(transform, Chain):
        return [part for step in transform for part in _flat(step)]
    if isinstance(transform, Inverse):
        inner = transform.bijector
        if isinstance(inner, Inverse):
            return _flat(inner.bijector)
        if isinstance(inner, Chain):
            return [part for step in reversed(list(inner)) for part in _flat(~step)]
        if isinstance(inner, Concat):
            return _flat(Concat([~step for step in inner.transforms]))  # type: ignore[operator, misc]
        return [] if isinstance(inner, Identity) else [transform]
    if isinstance(transform, Concat):
        return _flat_concat(transform)
    if isinstance(transform, Indexed):
        inner_map = simplify(transform.bijector)
        if isinstance(inner_map, Identity):
            return []
        same = inner_map is transform.bijector
        made = transform if same else Indexed(inner_map, transform.index, transform.shape).to(transform.chosen.device)  # type: ignore[arg-type]
        return [made]
    return [] if isinstance(transform, Identity) else [transform]


def _flat_concat(transform: Concat) -> list[Bijector]:
    steps = [simplify(step) for step in transform.transforms]  # type: ignore[arg-type]
    if all(isinstance(step, Identity) for step in steps):
        return []
    same = all(new is old for new, old in zip(steps, transform.transforms, strict=True))
    return [transform if same else Concat(steps)]  # type: ignore[arg-type]


def _merged(parts: list[Bijector]) -> list[Bijector]:
    """Merge neighbours from the left until none can be merged."""
    done: list[Bijector] = []
    for part in parts:
        current: Bijector | None = part
        while current is not None and done:
            merged = _merge(done[-1], current)
            if merged is None:
                break
            done.pop()
            current = None if isinstance(merged, Identity) else merged
        if current is not None:
            done.append(current)
    return done


def _merge(first: Bijector, second: Bijector) -> Bijector | None:
    if isinstance(second, Inverse) and second.bijector is first:
        return Identity(first.in_shape)
    for left, right in ((first, second), (_turned(first), _turned(second))):
        merged = left.merge(right)
        if isinstance(merged, Inverse) and isinstance(merged.bijector, Identity):
            return merged.bijector
        if isinstance(merged, Bijector):
            return merged
    return None


def _turned(transform: Bijector) -> Bijector:
    """An inverse written as a map of its own family, where the family has one."""
    if isinstance(transform, Inverse):
        return transform.bijector.inverted() or transform
    return transform
