"""What happens to values on their way into a map: those outside its domain are refused, or replaced and flagged."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.checks import may_raise
from flowkit.core.domain.domain import Domain
from flowkit.core.shapes import mask_event


def admitted(domain: Domain | None, value: Tensor, who: str) -> Tensor:
    """Raise DomainError for values outside, or make them NaN where nothing can be raised; None stands for all of R^n."""
    if domain is None:
        return value
    if may_raise(value):
        domain.check(value, who)
        return value
    inside, value = domain.split(value)
    return torch.where(mask_event(inside, len(domain.event_shape)), value, torch.full_like(value, torch.nan))


def separated(domain: Domain | None, value: Tensor) -> tuple[Tensor | None, Tensor]:
    """``inside`` (*B), None for all of R^n, and the values with safe points in place of those outside."""
    return (None, value) if domain is None else domain.split(value)
