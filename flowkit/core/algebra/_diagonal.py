"""Neighbours of a chain that are fixed elementwise maps, run in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra.inverse import Inverse
from flowkit.core.checks import checks_finite
from flowkit.core.domain.domain import Domain
from flowkit.core.entry import admitted, separated
from flowkit.core.tally import standard_log_normal
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform

Found = tuple[Bijector, bool]  # the map inside any ``Inverse``, and its direction


class DiagonalRun:
    """Some maps in the order they are applied, called like a part of a chain. Its domain is that of the first.

    Args:
        parts: of the chain.
        inverse: the chain's direction.
        found: the maps they stand for.
    """

    traits = Traits(jacobian="diagonal")
    context_shape = None

    def __init__(self, parts: list[Any], inverse: bool, found: list[Found]) -> None:
        self._parts, self._inverse, self._found = parts, inverse, found
        self._first, self._turned = found[0]
        self._domain = _domain(*found[0])

    def __call__(self, value: Tensor, context: None = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        steps = self._steps(value)
        if steps is None:
            total: Any = 0
            for part in self._parts:
                value, log_det = part.inverse(value) if self._inverse else part(value)
                total = total + log_det
            return value, total
        first = self._first
        value = admitted(self._domain, first._prepare(value, None, self._turned)[0], first._who_call(self._turned))
        out, log_det = steps(value, len(first.in_shape))
        return out, log_det

    inverse = __call__

    def masked(self, value: Tensor, context: None = None, **_: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """As ``Transform.masked``."""
        steps = self._steps(value)
        if steps is None:
            value, total, inside = self._parts[0].masked(value, inverse=self._inverse)
            for part in self._parts[1:]:  # they have no domain
                value, log_det, _none = part.masked(value, inverse=self._inverse)
                total = total + log_det
            return value, total, inside
        inside, value = separated(self._domain, self._first._prepare(value, None, self._turned)[0])
        return *steps(value, len(self._first.in_shape)), inside

    def masked_normal(self, value: Tensor, context: None = None, **_: Any) -> tuple[Tensor, Tensor | None]:
        """As ``Transform.masked_normal``."""
        steps = self._steps(value)
        if steps is None:
            out, log_det, inside = self.masked(value)
            return standard_log_normal(out, len(self._first.in_shape)) + log_det, inside
        inside, value = separated(self._domain, self._first._prepare(value, None, self._turned)[0])
        return steps(value, len(self._first.in_shape), "normal")[1], inside

    def _steps(self, value: Tensor) -> Any:
        """Those of all maps; None where no kernel serves, as one pass of plain torch is slower than the maps' own formulas."""
        if value.device.type != "cpu":
            return None
        joined: Any = None
        for part, turned in self._found:
            steps = part.diagonal_steps()
            if steps is None:
                return None
            steps = steps.inverted() if turned else steps
            joined = steps if joined is None else joined + steps
        return joined


def in_runs(parts: list[Any], inverse: bool) -> list[Any]:
    """Parts in the order they are applied, two and more neighbours with steps as one. A part that has a domain can only begin a run."""
    before = False
    for part in parts:  # every call of a chain passes here: one look at the classes first
        now = _may_join(part)
        if before and now:
            break
        before = now
    else:
        return parts
    if checks_finite():  # names the map that made a value infinite
        return parts
    groups: list[list[tuple[Any, Found | None]]] = []
    for part in parts:
        found = _found(part, inverse)
        joins = found is not None and groups and groups[-1][-1][1] is not None and _domain(*found) is None
        groups[-1].append((part, found)) if joins else groups.append([(part, found)])
    return [group[0][0] if len(group) == 1 else DiagonalRun([part for part, _ in group], inverse, [found for _, found in group if found]) for group in groups]


def _may_join(part: Any) -> bool:
    """Whether the class of the map inside any ``Inverse`` has steps; one derived elsewhere, which may change anything, has to say so itself."""
    kind = type(part)
    while kind is Inverse:
        part = part._modules["bijector"]
        kind = type(part)
    return getattr(kind, "diagonal_steps", _NO_STEPS) is not _NO_STEPS and (kind.__module__.startswith("flowkit.") or "diagonal_steps" in vars(kind))


def _found(part: Any, inverse: bool) -> Found | None:
    if not _may_join(part):
        return None
    while isinstance(part, Inverse) and not _replaced(part):
        part, inverse = part.bijector, not inverse
    return None if part.context_shape is not None or isinstance(part, Inverse) or _replaced(part) else (part, inverse)


def _domain(part: Bijector, inverse: bool) -> Domain | None:
    return part._codomain if inverse else part._domain


def _replaced(part: Transform) -> bool:
    """Whether a call does something else than the class says: hooks, or a formula of its own, as compiled maps have."""
    hooked = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return bool(hooked) or not _CALLS.isdisjoint(part.__dict__)


_CALLS = frozenset(("forward", "inverse", "_forward", "_inverse", "_formula"))
_NO_STEPS = Bijector.diagonal_steps
