"""Neighbours of a chain that are fixed elementwise maps, run in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra.inverse import Inverse
from flowkit.core.checks import checks_finite
from flowkit.core.domain.domain import Domain
from flowkit.core.entry import admitted, separated
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform

Found = tuple[Bijector, bool, Any]  # the map inside any ``Inverse``, its direction, its steps in that direction


class DiagonalRun:
    """Some maps in the order they are applied, called like a part of a chain. Its domain is that of the first."""

    traits = Traits(jacobian="diagonal")
    context_shape = None

    def __init__(self, run: list[Found]) -> None:
        self._first, self._inverse, self._steps = run[0]
        self._domain = _domain(self._first, self._inverse)
        for _, _, steps in run[1:]:
            self._steps = self._steps + steps

    def __call__(self, value: Tensor, context: None = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        first = self._first
        value = admitted(self._domain, first._prepare(value, None, self._inverse)[0], first._who_call(self._inverse))
        return self._evaluate(value)

    inverse = __call__

    def masked(self, value: Tensor, context: None = None, **_: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """As ``Transform.masked``."""
        inside, value = separated(self._domain, self._first._prepare(value, None, self._inverse)[0])
        return *self._evaluate(value), inside

    def masked_normal(self, value: Tensor, context: None = None, **_: Any) -> tuple[Tensor, Tensor | None]:
        """As ``Transform.masked_normal``."""
        inside, value = separated(self._domain, self._first._prepare(value, None, self._inverse)[0])
        return self._evaluate(value, "normal")[1], inside

    def _evaluate(self, value: Tensor, base: str = "none") -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = self._steps(value, len(self._first.in_shape), base)
        return made


def in_runs(parts: list[Any], inverse: bool) -> list[Any]:
    """Parts in the order they are applied, two and more neighbours with steps as one. A part that has a domain can only begin a run."""
    if checks_finite():  # names the map that made a value infinite
        return parts
    groups: list[list[tuple[Any, Found | None]]] = []
    for part in parts:
        found = _found(part, inverse)
        joins = found is not None and _domain(found[0], found[1]) is None and groups and groups[-1][-1][1] is not None
        groups[-1].append((part, found)) if joins else groups.append([(part, found)])
    return [group[0][0] if len(group) == 1 else DiagonalRun([found for _, found in group if found]) for group in groups]


def _found(part: Any, inverse: bool) -> Found | None:
    while isinstance(part, Inverse) and not _hooked(part):
        part, inverse = part.bijector, not inverse
    steps = part.diagonal_steps() if isinstance(part, Bijector) else None
    return None if steps is None or _hooked(part) else (part, inverse, steps.inverted() if inverse else steps)


def _domain(part: Bijector, inverse: bool) -> Domain | None:
    return part._codomain if inverse else part._domain


def _hooked(part: Transform) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)
