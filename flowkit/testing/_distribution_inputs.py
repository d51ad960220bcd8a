"""Inputs for distributions and what their kind allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.testing._case import Case
from flowkit.testing._draws import concrete, draw, draw_context

EXACT = "exact"


def tensor_density(p: Any) -> bool:
    """Whether ``log_prob`` is a tensor; on manifolds it is a pair."""
    return isinstance(p, Distribution) and getattr(p, "density", EXACT) != "manifold" and not _discrete(p)


def exact(p: Any) -> bool:
    """Whether ``log_prob`` is the density itself and not an estimate or a bound."""
    return tensor_density(p) and getattr(p, "density", EXACT) == EXACT


def drawn(p: Any) -> bool:
    """Whether every call of ``log_prob`` draws anew: a bound by the way back of a flow with a map that draws in its inverse."""
    return getattr(p, "density", EXACT) == "lower_bound"


def _discrete(p: Any) -> bool:
    return getattr(p, "density", EXACT) == "discrete"


def conditional(p: Any) -> bool:
    return p.context_shape is not None


def event_of(p: Any) -> tuple[int, ...]:
    """The event shape, open sizes filled in."""
    return concrete(p.event_shape)


def points(p: Any, case: Case, batch: tuple[int, ...] | None = None) -> Tensor:
    """Events inside the support: (*batch, *event)."""
    return draw(p.domain, case.batch if batch is None else batch, event_of(p), case)


def fixed(p: Any, case: Case) -> Any:
    """One context, or None."""
    return draw_context(p, (), case)


def density_of(p: Any, context: Any) -> Callable[[Tensor], Tensor]:
    """log_prob at that context."""
    return lambda x: p.log_prob(x, context)
