"""Steep projections of the circle: log-stretches far beyond what their slopes have numbers for."""

from __future__ import annotations

import math

import pytest
import torch

from flowkit.univariates import NonCompactProjection

PI = math.pi
ANGLES = [*torch.linspace(0, 2 * PI, 41, dtype=torch.float64).tolist(), PI, PI + 1e-6, PI - 1e-6, 1e-7, 1e-30, 2 * PI - 1e-6]


@pytest.mark.parametrize("stretch", [30.0, -30.0, 60.0, -60.0, 90.0, -90.0, 1e4, -1e4])
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize(("dtype", "low"), [(torch.float32, 0.0), (torch.float32, -PI), (torch.float64, 0.0)], ids=str)
def test_all_is_finite(components: int, stretch: float, dtype: torch.dtype, low: float) -> None:
    """Values, log-slopes, scores and all gradients, both ways; every value has a preimage."""
    univariate = NonCompactProjection(components, low=low)
    value = (torch.tensor(ANGLES, dtype=torch.float64) + low).clamp(univariate.low, univariate.high).to(dtype).requires_grad_()
    params = torch.full((len(value), components), 0.3, dtype=dtype)
    params[:, 0] = stretch
    params.requires_grad_()
    for call in (univariate.transform, univariate.untransform):
        out, log_slope = call(value, params)
        grads = torch.autograd.grad(out.sum(), (value, params), retain_graph=True) + torch.autograd.grad(log_slope.sum(), (value, params))
        carried = univariate.carry_score(value.detach(), params.detach(), torch.ones_like(value), inverse=call == univariate.untransform)
        assert all(bool(torch.isfinite(part).all()) for part in (out, log_slope, *grads, *carried))
    assert bool((out >= univariate.low).all() & (out <= univariate.high).all())


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_held(sign: int) -> None:
    """Beyond the stated 39.9 in float32 the map is that at 39.9, and the parameter has no gradient; up to it, its own."""
    univariate, value = NonCompactProjection(1), torch.tensor(ANGLES, dtype=torch.float32).clamp(max=2 * PI)
    most = 0.45 * math.log(torch.finfo(torch.float32).max)
    assert most == pytest.approx(39.9, abs=0.05)
    at, beyond = (torch.full((len(value), 1), sign * size).requires_grad_() for size in (most, 1.2 * most))
    for mine, other in zip(univariate.transform(value, beyond), univariate.transform(value, at), strict=True):
        torch.testing.assert_close(mine, other)
    out, log_slope = univariate.transform(value, beyond)
    assert not torch.autograd.grad(out.sum() + log_slope.sum(), beyond)[0].any()
    assert not univariate.carry_score(value, beyond.detach(), torch.ones_like(value), inverse=False)[3].any()
    inside = torch.full((len(value), 1), sign * 0.99 * most).requires_grad_()
    assert torch.autograd.grad(univariate.transform(value, inside)[1].sum(), inside)[0].any()


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_ends_stay_where_they_are(low: float) -> None:
    univariate = NonCompactProjection(1, low=low)
    ends = torch.tensor([univariate.low, univariate.high], dtype=torch.float64)
    for stretch in (40.0, -40.0, 200.0):
        params = torch.full((2, 1), stretch, dtype=torch.float64)
        torch.testing.assert_close(univariate.transform(ends, params)[0], ends)
        torch.testing.assert_close(univariate.transform(ends, params)[1], params[:, 0])
