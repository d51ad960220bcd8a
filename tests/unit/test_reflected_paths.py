"""Reflected flows at times between the ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowkit.core.domain import Box
from flowkit.core.errors import ConfigError
from flowkit.flows import ReflectedFlow


def test_times_between_change_no_steps() -> None:
    """Places along the way end where ``to_data`` does, walls or not, and none is outside; costs that ride along change no steps."""
    torch.manual_seed(3)
    flow = ReflectedFlow(Box(-1.0, 1.0, 2), (16,))
    with torch.no_grad():
        for parameter in flow.field.parameters():
            parameter.mul_(4)
    z = flow.base.sample(300, generator=torch.Generator().manual_seed(0))
    moved: Any = flow.bijector.transport(z)  # type: ignore[operator]
    assert 30 < int((moved.stats.hits > 0).sum()) < 300
    for times in ((0.0, 0.5, 1.0), torch.linspace(0, 1, 41)):
        path = flow.path(z, times)
        assert path.shape == (len(times), 300, 2) and flow.domain.contains(path).all() and torch.equal(path[0], z)
        assert (path[-1] - flow.to_data(z)).abs().max() <= 1e-3
    costly: Any = flow.bijector.transport(z, running=lambda t, x, context, v, products: 1e4 * torch.sin(60 * x[..., :1]))  # type: ignore[operator]
    free = (costly.stats.hits == 0) & (moved.stats.hits == 0)
    assert int(free.sum()) > 5 and torch.equal(costly.stats.nfe[free], moved.stats.nfe[free])
    with pytest.raises(ConfigError, match="got per_sample=False"):
        flow.with_solver(per_sample=False)
    assert flow.with_solver(per_sample=True, max_steps=500).bijector.max_steps == 500  # type: ignore[union-attr]
