"""A clip that never quite reaches its limits."""

from __future__ import annotations

from torch import Tensor


def soft_clip(raw: Tensor, limit: float) -> Tensor:
    """raw / (1 + |raw| / limit): slope 1 at 0, within (-limit, limit)."""
    return raw / (1 + raw.abs() / limit)
