"""Splines in float32 at and beyond bin edges, with parameters up to 50: round trips, gradients, and nflows beside them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from flowkit.univariates import RationalQuadraticSpline

STUDY: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "spline_stress.py"))


@pytest.mark.parametrize(("bins", "bound", "count"), [(8, 3.0, 1_000_000), (2, 1.0, 100_000), (32, 10.0, 100_000)])
def test_round_trips(bins: int, bound: float, count: int) -> None:
    result = STUDY["study"](*STUDY["flowkit_maps"](bins, bound), *STUDY["pairs"](count, bins=bins, bound=bound), bound)
    assert result.failed_chunks == 0, result.error
    assert result.not_finite == 0
    assert result.over == 0 and max(result.inverse_error, result.round_trip_error) <= 1.0, result
    assert result.small_error <= 1e-4, result


def test_nflows_fails_the_same_run() -> None:
    result = STUDY["study"](*STUDY["nflows_maps"](), *STUDY["pairs"](20_000))
    assert result.failed_chunks > 0 and "AssertionError" in result.error
    assert result.not_finite > 0 or result.over > 0


@pytest.mark.parametrize("ends", ["linear", "bounded", "circular"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_are_finite(ends: Any, scale: float, inverse: bool) -> None:
    bound = 3.0
    spline = RationalQuadraticSpline(8, bound, ends=ends)
    sizes = [0.0, 1.0, bound] if ends != "linear" else [0.0, 1.0, bound, 1e4, 1e30, torch.inf]
    points = torch.tensor([sign * size for size in sizes for sign in (1.0, -1.0)]).repeat(50, 1)
    params = scale * (2 * torch.rand(*points.shape, spline.parameter_count, generator=torch.Generator().manual_seed(0)) - 1)
    params[::2] = scale * params[::2].sign()
    points.requires_grad_()
    params.requires_grad_()
    value, log_slope = (spline.untransform if inverse else spline.transform)(points, params)
    assert bool(torch.isfinite(log_slope).all())
    assert bool((torch.isfinite(value) | torch.isinf(points)).all())
    for output in (value, log_slope):
        for gradient in torch.autograd.grad(output, (points, params), torch.ones_like(output), retain_graph=True, materialize_grads=True):
            assert bool(torch.isfinite(gradient).all())


def test_gradient_where_both_branches_of_the_root_meet() -> None:
    """Equal slopes at the middle of a bin: the inverse switches branch exactly there."""
    spline = RationalQuadraticSpline(2, 1.0, ends="bounded").double()
    params = torch.zeros(spline.parameter_count, dtype=torch.float64)
    y = torch.tensor([-0.5, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, p: spline.untransform(y, p.expand(2, -1)), (y, params.requires_grad_()))
