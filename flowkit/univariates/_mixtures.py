"""What mixture maps share: how many components there are, and where they start."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.shapes import whole_number


def component_count(components: int, who: str) -> int:
    """A checked number of components."""
    return whole_number(components, who, "components", 2)


def spread(count: int) -> Tensor:
    """Normal quantiles at the middles of ``count`` equal shares: where equal components start, so that none is another's copy."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()
