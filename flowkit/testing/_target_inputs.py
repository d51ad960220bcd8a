"""Inputs for targets: points of the domain, and points where formulas tend to break."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.testing._case import Case
from flowkit.testing._draws import concrete, draw

UNITS = 6  # unit vectors tried


def points(target: Any, case: Case, batch: tuple[int, ...] | None = None) -> Tensor:
    """Events inside the domain: (*batch, *event)."""
    return draw(target.domain, case.batch if batch is None else batch, concrete(target.event_shape), case)


def special_points(domain: Domain, event: tuple[int, ...], case: Case) -> dict[str, Tensor]:
    """The origin, unit vectors, and points a thousand and a million units out, as far as they lie in the domain."""
    size = int(torch.Size(event).numel())
    directions = torch.randn((4, *event), generator=case.generator(60), dtype=torch.float64)
    directions = torch.cat([directions, torch.ones((1, *event), dtype=torch.float64), -torch.ones((1, *event), dtype=torch.float64)])
    tried = {
        "at the origin": torch.zeros((1, *event)),
        "at unit vectors": torch.eye(size)[:UNITS].reshape(-1, *event),
        "a thousand units out": 1e3 * directions,
        "a million units out": 1e6 * directions,
    }
    inside = {where: x[domain.contains(x)] for where, x in ((where, x.to(case.dtype)) for where, x in tried.items())}
    return {where: x for where, x in inside.items() if len(x)}
