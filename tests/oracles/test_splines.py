"""Rational-quadratic splines against nflows and zuko with the same parameters, in float64."""

from __future__ import annotations

import pytest
import torch
from nflows.transforms.splines.rational_quadratic import rational_quadratic_spline, unconstrained_rational_quadratic_spline
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform
from zuko_parameters import raw_parameters

from flowkit.univariates import RationalQuadraticSpline

ROWS = 4000


def _parameters(count: int, scale: float) -> Tensor:
    return scale * torch.randn(ROWS, count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def _points(low: float, high: float) -> Tensor:
    points = low + (high - low) * torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points[:2] = torch.tensor([low, high])
    return points


def _agree(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], tolerance: float = 1e-12) -> None:
    for name, mine, other in zip(("value", "log-derivative"), ours, theirs, strict=True):
        error = float(((mine - other).abs() / other.abs().clamp(min=1.0)).max())
        assert error <= tolerance, f"{name} differs by {error:.2e}"


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("bins", "bound"), [(2, 1.0), (8, 3.0), (20, 5.0)])
def test_linear_tails_against_nflows(bins: int, bound: float, inverse: bool) -> None:
    """Half of the points lie in the tails."""
    spline, params, x = RationalQuadraticSpline(bins, bound), _parameters(3 * bins - 1, 1.0), _points(-2 * bound, 2 * bound)
    parts = params.split([bins, bins, bins - 1], dim=-1)
    expected = unconstrained_rational_quadratic_spline(x, *parts, inverse=inverse, tails="linear", tail_bound=bound)
    # 2e-12: in the steepest of these bins nflows itself is off by 1.7e-12 (against 40 digits), the reference by 1.6e-12, the kernel by 1.3e-12
    _agree((spline.untransform if inverse else spline.transform)(x, params), expected, 2e-12)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (-2.0, 5.0)])
def test_bounded_against_nflows(interval: tuple[float, float], inverse: bool) -> None:
    bins = 6
    spline, params, x = RationalQuadraticSpline(bins, interval, ends="bounded"), _parameters(3 * bins + 1, 1.0), _points(*interval)
    low, high = interval
    parts = params.split([bins, bins, bins + 1], dim=-1)
    expected = rational_quadratic_spline(x, *parts, inverse=inverse, left=low, right=high, bottom=low, top=high)
    _agree((spline.untransform if inverse else spline.transform)(x, params), expected)


def test_circular_is_bounded_with_one_slope_at_both_ends() -> None:
    bins, bound = 5, 3.0
    spline, params, x = RationalQuadraticSpline(bins, bound, ends="circular"), _parameters(3 * bins, 1.0), _points(-bound, bound)
    widths, heights, slopes = params.split([bins, bins, bins], dim=-1)
    whole = torch.cat([slopes, slopes[:, :1]], dim=-1)
    expected = rational_quadratic_spline(x, widths, heights, whole, left=-bound, right=bound, bottom=-bound, top=bound)
    _agree(spline.transform(x, params), expected)


@pytest.mark.parametrize("inverse", [False, True])
def test_linear_tails_against_zuko(inverse: bool) -> None:
    bins, bound = 8, 3.0
    theirs = MonotonicRQSTransform(*_parameters(3 * bins - 1, 1.0).split([bins, bins, bins - 1], dim=-1), bound=bound)
    params, spline, x = raw_parameters(theirs), RationalQuadraticSpline(bins, bound), _points(-1.5 * bound, 1.5 * bound)
    if inverse:
        solved = theirs.inv(x)
        _agree(spline.untransform(x, params), (solved, -theirs.call_and_ladj(solved)[1]))
    else:
        _agree(spline.transform(x, params), theirs.call_and_ladj(x))
