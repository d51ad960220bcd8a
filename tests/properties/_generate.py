"""Registered class x examples() x the checks that apply, as pytest parameters."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from flowkit.core.registry import Registry
from flowkit.testing._case import known_failures, seeded_examples
from flowkit.testing._suite import Suite

DEFAULT_EXAMPLES = 3  # a class; the rest are marked slow
COSTLY_EXAMPLES = 1  # for checks that take a good part of a second


@functools.cache
def _labels(cls: type) -> tuple[tuple[str, Any], ...]:
    return tuple((label, parts[0] if len(parts) == 1 else tuple(parts)) for label, *parts in seeded_examples(cls))


def example(cls: type, label: str) -> Any:
    """What ``cls.examples()`` yields under that label, built once in a process: a suite judges a copy of what it is given."""
    return dict(_labels(cls))[label]


def parameters(suite: Suite, registry: Registry, *, drawn: bool | None = None) -> list[Any]:
    """``pytest.param(cls, label, check)`` for everything registered, ids like ``coupling-spline-round_trip``.

    Args:
        suite: the checks.
        registry: the classes.
        drawn: only checks that hold for any seed and batch.
    """
    made = []
    for name in registry:
        cls = registry[name]
        try:
            examples = _labels(cls)
        except Exception as error:  # a class whose examples cannot be built fails as one test, not as a collection
            made.append(pytest.param(cls, None, f"{type(error).__name__}: {error}", id=f"{name}-examples"))
            continue
        for position, (label, instance) in enumerate(examples):
            made += [_parameter(suite, name, cls, position, label, instance, check) for check in suite.names(instance) if _wanted(suite, check, drawn)]
    return made


def _wanted(suite: Suite, check: str, drawn: bool | None) -> bool:
    return drawn is None or suite.checks[check].drawn == drawn


def _parameter(suite: Suite, name: str, cls: type, position: int, label: str, instance: Any, check: str) -> Any:
    marks = []
    known = known_failures(instance[0] if isinstance(instance, tuple) else instance)
    if check in known:
        marks.append(pytest.mark.xfail(strict=True, reason=known[check]))
    if position >= (COSTLY_EXAMPLES if suite.checks[check].costly else DEFAULT_EXAMPLES):
        marks.append(pytest.mark.slow)
    return pytest.param(cls, label, check, id=f"{name}-{label}-{check}", marks=marks)


def run(suite: Suite, cls: type, label: str | None, check: str, case: Any = None) -> None:
    """Run one check on a copy of an example."""
    if label is None:
        pytest.fail(f"{cls.__name__}.examples(): {check}")
    suite.run(check, example(cls, label), case)
