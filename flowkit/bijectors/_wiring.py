"""The plan of a graph of maps: steps read from plain data, checked once, and put in order for both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flowkit.core.algebra.parallel import event_axis
from flowkit.core.errors import ConfigError, ShapeError, nearest
from flowkit.core.shapes import Shape, plain_int, show, unify
from flowkit.core.transform import Bijector

KEYS = {"apply": {"apply", "to", "as", "given"}, "split": {"split", "into", "axis"}, "join": {"join", "as", "axis"}}


@dataclass(frozen=True)
class Step:
    """One node: it uses up the values ``takes`` and makes the values ``makes``; ``given`` are only looked at."""

    kind: str
    label: str
    takes: tuple[str, ...]
    makes: tuple[str, ...]
    map: str = ""
    given: str | tuple[str, ...] | dict[str, str] | None = None
    axis: int = 0
    sizes: tuple[int, ...] = ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of everything the step is conditioned on."""
        if self.given is None:
            return ()
        return (self.given,) if isinstance(self.given, str) else tuple(self.given.values() if isinstance(self.given, dict) else self.given)


@dataclass(frozen=True)
class Plan:
    """Steps in the order of each direction, the shape of every value, and an order that serves both directions, or None.

    In ``both`` a value is made, then looked at, then used up, so at every step all that is conditioned on is part of the state.
    """

    forward: tuple[Step, ...]
    inverse: tuple[Step, ...]
    shapes: dict[str, Shape]
    both: tuple[Step, ...] | None


def make_plan(
    inputs: Mapping[str, Shape], contexts: Mapping[str, Shape], steps: Sequence[Mapping[str, Any]], outputs: Sequence[str], bijectors: Mapping[str, Bijector]
) -> Plan:
    """Check a graph and order its steps.

    Raises:
        ConfigError: a name is unknown or used twice, a value is used up not exactly once, steps wait for each other, or a
            condition is not known yet when the inverse needs it.
        ShapeError: shapes do not fit.
    """
    read = [_read(i, step) for i, step in enumerate(steps)]
    if not read:
        raise ConfigError("Graph: expected at least one step; got none. Use Identity(shape) for no map.")
    _check_names(read, inputs, contexts, bijectors)
    _check_use(read, [*inputs], contexts, outputs)
    forward = _ordered(read, {*inputs, *contexts}, lambda step: (*step.takes, *step.conditions), lambda step: step.makes, _cycle)
    shapes = {**inputs, **contexts}
    forward = [_shaped(step, shapes, bijectors) for step in forward]
    known = {*outputs, *contexts}
    inverse = _ordered(forward[::-1], known, lambda step: (*step.makes, *step.conditions), lambda step: step.takes, _late_condition)
    return Plan(tuple(forward), tuple(inverse), shapes, _in_both(forward, {*inputs, *contexts}))


def _in_both(forward: Sequence[Step], known: set[str]) -> tuple[Step, ...] | None:
    """Steps so that each also finds what it uses up no longer looked at; None where no order does that."""
    known, left, done = set(known), list(forward), []
    while left:
        ready = next(
            (step for step in left if known.issuperset((*step.takes, *step.conditions)) and not any(_looks(other, step) for other in left)),
            None,
        )
        if ready is None:
            return None
        left.remove(ready)
        done.append(ready)
        known.update(ready.makes)
    return tuple(done)


def _looks(step: Step, user: Step) -> bool:
    """Whether a step is conditioned on what another uses up."""
    return not set(step.conditions).isdisjoint(user.takes)


def _read(i: int, step: Any) -> Step:
    if not isinstance(step, Mapping) or len(kinds := set(step) & set(KEYS)) != 1:
        raise ConfigError(f"Graph: step {i}: expected a mapping with one of the keys 'apply', 'split', 'join'; got {step!r}.")
    kind = kinds.pop()
    label = f"step {i} ({kind} {step[kind]!r})"
    if extra := sorted(map(str, set(step) - KEYS[kind])):
        raise ConfigError(f"Graph: {label}: unknown key '{extra[0]}'. {nearest(extra[0], KEYS[kind])}")
    if missing := sorted(KEYS[kind] - {"given", "axis"} - set(step)):
        raise ConfigError(f"Graph: {label}: needs the key '{missing[0]}'.")
    if kind == "apply":
        return Step(kind, label, _names([step["to"]], label), _names([step["as"]], label), map=step["apply"], given=_given(step.get("given"), label))
    if kind == "join":
        return Step(kind, label, _names(step["join"], label), _names([step["as"]], label), axis=step.get("axis", 0))
    sizes = step["into"]
    if not isinstance(sizes, Mapping) or not sizes or any((plain_int(size) or 0) < 1 for size in sizes.values()):
        raise ConfigError(f"Graph: {label}: expected 'into' to map names to sizes >= 1; got {sizes!r}.")
    return Step(kind, label, _names([step["split"]], label), _names(list(sizes), label), axis=step.get("axis", 0), sizes=tuple(map(int, sizes.values())))


def _names(names: Any, label: str) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"Graph: {label}: expected names of values as strings; got {names!r}.")
    return tuple(names)


def _given(given: Any, label: str) -> str | tuple[str, ...] | dict[str, str] | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return dict(zip(given, _names(list(given.values()), label), strict=True))
    return _names(given, label)


def _check_names(steps: Sequence[Step], inputs: Mapping[str, Shape], contexts: Mapping[str, Shape], bijectors: Mapping[str, Bijector]) -> None:
    made = dict.fromkeys(inputs, "the inputs")
    for name, where in [*((name, "the contexts") for name in contexts), *((name, step.label) for step in steps for name in step.makes)]:
        if name in made:
            raise ConfigError(f"Graph: the name '{name}' is given by {made[name]} and again by {where}. Give every value a name of its own.")
        made[name] = where
    for step in steps:
        for name in (*step.takes, *step.conditions):
            if name not in made:
                raise ConfigError(f"Graph: {step.label}: nothing is called {name!r}. {nearest(str(name), made)}")
        if step.kind == "apply" and step.map not in bijectors:
            raise ConfigError(f"Graph: {step.label}: no bijector is called {step.map!r}. {nearest(str(step.map), bijectors)}")
    if unused := sorted(set(bijectors) - {step.map for step in steps}):
        raise ConfigError(f"Graph: the bijector '{unused[0]}' is applied by no step. Add a step, or drop it.")
    looked_at = {name for step in steps for name in step.conditions}
    if unused := sorted(set(contexts) - looked_at):
        raise ConfigError(f"Graph: the context '{unused[0]}' conditions no step. Name it in a step's 'given', or drop it.")


def _check_use(steps: Sequence[Step], inputs: Sequence[str], contexts: Mapping[str, Shape], outputs: Sequence[str]) -> None:
    """Every value is used up exactly once, by a step or as an output; a context by none."""
    users: dict[str, list[str]] = {name: [] for name in (*inputs, *(name for step in steps for name in step.makes))}
    for name, user in [*((name, step.label) for step in steps for name in step.takes), *((name, "the output") for name in outputs)]:
        if name in contexts:
            raise ConfigError(f"Graph: {user} uses up the context '{name}', which is not mapped. Name it in 'given' instead.")
        if name not in users:
            raise ConfigError(f"Graph: {user}: nothing is called {name!r}. {nearest(str(name), users)}")
        users[name].append(user)
    for name, by in users.items():
        if len(by) > 1:
            raise ConfigError(f"Graph: '{name}' is used up by {by[0]} and by {by[1]}, so it has no inverse. Use it up once; elsewhere name it in 'given'.")
        if not by:
            raise ConfigError(f"Graph: '{name}' is used up by no step and is no output, so the inverse could not recover it. Join it, or add it to output=.")


def _ordered(
    steps: Sequence[Step],
    known: set[str],
    needs: Callable[[Step], tuple[str, ...]],
    gives: Callable[[Step], tuple[str, ...]],
    stuck: Callable[[list[Step], set[str]], ConfigError],
) -> list[Step]:
    """Steps so that each finds what it needs; equal choices in the order given."""
    known, left, done = set(known), list(steps), []
    while left:
        ready = next((step for step in left if known.issuperset(needs(step))), None)
        if ready is None:
            raise stuck(left, known)
        left.remove(ready)
        done.append(ready)
        known.update(gives(ready))
    return done


def _cycle(left: list[Step], known: set[str]) -> ConfigError:
    made = {name for step in left for name in step.makes}
    waits = ", ".join(f"{step.label} for {_quoted(name for name in (*step.takes, *step.conditions) if name in made)}" for step in left)
    return ConfigError(f"Graph: the steps form a cycle: {waits}. A value must not depend on itself.")


def _late_condition(left: list[Step], known: set[str]) -> ConfigError:
    for step in left:
        late = [name for name in step.conditions if name not in known]
        if late and known.issuperset(step.makes):
            return ConfigError(
                f"Graph: {step.label} is conditioned on '{late[0]}', which the inverse only knows after it has undone that very step. "
                "Condition on a value that reaches the output another way, such as the other part of a split."
            )
    return ConfigError(f"Graph: no order of steps inverts {_quoted(step.label for step in left)}.")


def _quoted(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _shaped(step: Step, shapes: dict[str, Shape], bijectors: Mapping[str, Bijector]) -> Step:
    """Check a step's shapes, note the shapes of what it makes; returns it with axis and sizes filled in."""
    if step.kind == "apply":
        shapes[step.makes[0]] = _applied(step, bijectors[step.map], shapes)
        return step
    first = shapes[step.takes[0]]
    if not first:
        raise ShapeError(f"Graph: {step.label}: expected values with an axis; '{step.takes[0]}' has shape ().")
    axis = event_axis(step.axis, len(first), f"Graph: {step.label}")
    if step.kind == "split":
        if first[axis] not in (None, sum(step.sizes)):
            raise ShapeError(f"Graph: {step.label}: '{step.takes[0]}' has shape {show(first)}; the sizes {list(step.sizes)} do not add up to axis {axis}.")
        shapes.update({name: (*first[:axis], size, *first[axis + 1 :]) for name, size in zip(step.makes, step.sizes, strict=True)})
        return replace(step, axis=axis)
    sizes, shapes[step.makes[0]] = joined_shape([shapes[name] for name in step.takes], axis, f"Graph: {step.label}")
    return replace(step, axis=axis, sizes=sizes)


def joined_shape(parts: Sequence[Shape], axis: int, who: str) -> tuple[tuple[int, ...], Shape]:
    """Sizes of the parts along an axis and the shape of the whole."""
    rest: Shape | None = (*parts[0][:axis], *parts[0][axis + 1 :])
    sizes: list[int] = []
    for shape in parts:
        rest = unify(rest, (*shape[:axis], *shape[axis + 1 :])) if rest is not None and len(shape) > axis else None
        size = shape[axis] if rest is not None else None
        if rest is None or size is None:
            raise ShapeError(f"{who}: expected parts that agree beyond axis {axis} and have a known size there; got {', '.join(map(show, parts))}.")
        sizes.append(size)
    assert rest is not None
    return tuple(sizes), (*rest[:axis], sum(sizes), *rest[axis:])


def _applied(step: Step, bijector: Bijector, shapes: Mapping[str, Shape]) -> Shape:
    met = unify(shapes[step.takes[0]], bijector.in_shape)
    if met is None:
        raise ShapeError(f"Graph: {step.label}: {bijector.who} expects {show(bijector.in_shape)}; '{step.takes[0]}' has shape {show(shapes[step.takes[0]])}.")
    wanted, got = bijector.context_shape, [shapes[name] for name in step.conditions]
    if (wanted is None) != (step.given is None):
        remedy = "Name one in 'given'." if step.given is None else "Drop 'given', or build it with context_features=."
        raise ConfigError(f"Graph: {step.label}: {bijector.who} {'expects a context' if wanted is not None else 'takes no context'}. {remedy}")
    fits = wanted is None or _fits(step, wanted, shapes)
    if not fits:
        raise ShapeError(f"Graph: {step.label}: {bijector.who} expects a context of shape {wanted}; 'given' has {', '.join(map(show, got))}.")
    return met if bijector.in_shape == bijector.out_shape else bijector.out_shape


def _fits(step: Step, wanted: Shape | dict[str, Shape], shapes: Mapping[str, Shape]) -> bool:
    """Whether what a step is given has the shape of the context its map declares."""
    given = step.given
    if isinstance(wanted, dict) or isinstance(given, dict):
        if not isinstance(wanted, dict) or not isinstance(given, dict) or set(given) != set(wanted):
            return False
        return all(unify(shapes[name], wanted[key]) is not None for key, name in given.items())
    if isinstance(given, tuple):
        parts = [shapes[name] for name in given]
        return len(wanted) == 1 and all(len(part) == 1 for part in parts) and wanted[0] in (None, sum(part[0] or 0 for part in parts))
    return given is not None and unify(shapes[given], wanted) is not None
