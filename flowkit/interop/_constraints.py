"""Constraints of torch.distributions as domains, and domains as constraints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from flowkit.core.domain.box import Box
from flowkit.core.domain.domain import Domain

OPEN = (constraints.greater_than,)  # the lower end is not part of the set


class Constrained(Domain):
    """Where a torch constraint holds.

    Args:
        constraint: its own event may have fewer axes than ``point``.
        point: one event well inside.
    """

    point: Tensor

    def __init__(self, constraint: Any, point: Tensor) -> None:
        super().__init__()
        self.constraint, self.event_shape = constraint, tuple(point.shape)
        self.register_buffer("point", point, persistent=False)

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        inside, rank = self.constraint.check(x), len(self.event_shape)
        extra = inside.dim() - (x.dim() - rank)
        inside = inside.flatten(-extra).all(-1) if extra else inside
        finite = torch.isfinite(x)
        return inside & (finite.flatten(-rank).all(-1) if rank else finite)

    def safe_point(self, x: Tensor) -> Tensor:
        return self.point.to(x).expand_as(x)


def bounds_of(constraint: Any, shape: tuple[int, ...]) -> Box | None:
    """The box of a constraint that bounds each coordinate by itself; None for others."""
    inner = unwrapped(constraint)
    low, high = getattr(inner, "lower_bound", None), getattr(inner, "upper_bound", None)
    if low is None and high is None:
        return None
    lower = torch.as_tensor(-torch.inf if low is None else low, dtype=torch.get_default_dtype()).detach()
    upper = torch.as_tensor(torch.inf if high is None else high, dtype=torch.get_default_dtype()).detach()
    if type(inner) in OPEN:
        lower = torch.nextafter(lower, torch.full_like(lower, torch.inf))
    if torch.broadcast_shapes(lower.shape, upper.shape, shape) != torch.Size(shape):
        return None
    return Box(lower, upper, shape)


def is_real(constraint: Any) -> bool:
    """Whether a constraint admits every number."""
    return type(unwrapped(constraint)) is type(constraints.real)


def unwrapped(constraint: Any) -> Any:
    """The constraint under ``independent``."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def constraint_of(domain: Domain) -> Any:
    """A domain as a torch constraint: by torch's own names where a box has them, so that ``biject_to`` knows it."""
    rank = len(domain.event_shape)
    inner: Any = _Inside(domain)
    if domain.trivial:
        inner = constraints.real
    elif isinstance(domain, Box):
        low, high = domain.low_buffer, domain.high_buffer
        if domain.bounded:
            inner = constraints.interval(low, high)
        elif bool(torch.isfinite(low).all()) and bool(torch.isinf(high).all()):
            inner = constraints.greater_than_eq(low)
        elif bool(torch.isinf(low).all()) and bool(torch.isfinite(high).all()):
            inner = constraints.less_than(high)
    if isinstance(inner, _Inside) or not rank:
        return inner
    return constraints.independent(inner, rank)


class _Inside(constraints.Constraint):
    """Membership of a domain."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return len(self.domain.event_shape)

    def check(self, value: Tensor) -> Tensor:
        return self.domain.contains(value)
