"""Linear, quadratic, cubic and linear-rational splines: against nflows and pyro with the same knots, at their ends, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nflows.transforms.splines.cubic import cubic_spline
from nflows.transforms.splines.linear import linear_spline
from nflows.transforms.splines.quadratic import quadratic_spline
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors import Autoregressive, Coupling, Elementwise
from flowkit.core.errors import ConfigError
from flowkit.kernels.bins import MIN_HEIGHT, MIN_WIDTH, Axis, knots
from flowkit.kernels.piecewise_cubic import MIN_END, Ends, bins, share_root
from flowkit.kernels.piecewise_quadratic import knot_slopes
from flowkit.kernels.rational_quadratic import MIN_SLOPE, UNIT_SLOPE
from flowkit.univariates import CubicSpline, LinearRationalSpline, LinearSpline, QuadraticSpline, RationalQuadraticSpline

ROWS, BINS, LOW, HIGH = 4000, 6, -2.0, 5.0
FAMILIES = [LinearSpline, QuadraticSpline, CubicSpline, LinearRationalSpline]
SMOOTH = FAMILIES[1:]
KINDS = ["linear", "bounded", "circular"]
EPS32 = torch.finfo(torch.float32).eps
Pair = tuple[Tensor, Tensor]


def _draw(cls: Any, ends: Any, scale: float = 1.0, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Any, Tensor, Tensor]:
    """A spline, raw parameters (rows, count) and points over its interval, both ends among them."""
    generator = torch.Generator().manual_seed(1)
    spline = cls(BINS, (LOW, HIGH), ends=ends)
    params = scale * torch.randn(rows, spline.parameter_count, dtype=dtype, generator=generator)
    points = LOW + (HIGH - LOW) * torch.rand(rows, dtype=dtype, generator=generator)
    points[:2] = torch.tensor([LOW, HIGH])
    return spline, params, points


def _agree(ours: Pair, theirs: Pair, tolerance: float) -> None:
    for name, mine, other in zip(("value", "log-derivative"), ours, theirs, strict=True):
        error = float(((mine - other).abs() / other.abs().clamp(min=1.0)).max())
        assert error <= tolerance, f"{name} differs by {error:.2e}"


def _both_ways(spline: Any, params: Tensor, points: Tensor, theirs: Callable[..., Pair], inverse_tolerance: float = 1e-10) -> None:
    box = {"left": LOW, "right": HIGH, "bottom": LOW, "top": HIGH}
    _agree(spline.transform(points, params), theirs(points, inverse=False, **box), 1e-10)
    _agree(spline.untransform(points, params), theirs(points, inverse=True, **box), inverse_tolerance)


def _raw(axis: Axis, floor: float) -> Tensor:
    """Raw numbers whose softmax with a floor gives the bins."""
    return ((axis.size / (HIGH - LOW) - floor) / (1 - floor * BINS)).log()


@pytest.mark.parametrize("ends", KINDS)
def test_linear_against_nflows(ends: Any) -> None:
    spline, params, x = _draw(LinearSpline, ends)
    raw = knots(params, LOW, HIGH, MIN_HEIGHT).size.log()  # nflows has no floor, and its inverse a grid in float32
    _both_ways(spline, params, x, lambda value, **options: linear_spline(value, raw, **options), 1e-4)
    _agree((spline.untransform(spline.transform(x, params)[0], params)[0], x), (x, x), 1e-12)


@pytest.mark.parametrize("ends", KINDS)
def test_quadratic_against_nflows(ends: Any) -> None:
    """nflows takes the softplus of raw heights (the identity from 20 on) and divides by their integral; its linear tails miss slope 1."""
    spline, params, x = _draw(QuadraticSpline, ends)
    widths, heights = params.split([BINS, spline.parameter_count - BINS], dim=-1)
    given = (
        functional.pad(heights, (1, 1), value=-math.inf) if ends == "linear" else torch.cat([heights, heights[:, :1]], -1) if ends == "circular" else heights
    )
    wanted = given.exp()
    if ends == "linear":
        slopes = knot_slopes(knots(widths, LOW, HIGH, MIN_WIDTH).size, given, HIGH - LOW)
        assert bool((slopes[:, [0, -1]] == 1).all())
        wanted = slopes - MIN_SLOPE
    raw = (15 * wanted / wanted.amax(-1, keepdim=True) - 1e-3).expm1().log()
    _both_ways(spline, params, x, lambda value, **options: quadratic_spline(value, widths, raw, **options), 1e-6)


@pytest.mark.parametrize("ends", KINDS)
def test_cubic_against_nflows(ends: Any) -> None:
    spline, params, x = _draw(CubicSpline, ends)
    widths, heights, free = params.split([BINS, BINS, spline.parameter_count - 2 * BINS], dim=-1)
    across, up = bins(widths, heights, Ends(ends == "linear", ends == "bounded", None), LOW, HIGH)
    first, last = (up.size / across.size)[:, 0], (up.size / across.size)[:, -1]
    if ends == "linear":
        assert bool((first > 1 / 3).all() and (last > 1 / 3).all())
        slopes = torch.ones(ROWS, 2, dtype=torch.float64)
    elif ends == "bounded":
        slopes = 3 * torch.stack([first, last], -1) * (MIN_END + (1 - MIN_END) * free.sigmoid())
    else:
        w, v = across.size[:, -1], across.size[:, 0]
        slopes = torch.minimum(2 * torch.minimum(first, last), (last * v + first * w) / (v + w)).unsqueeze(-1).expand(-1, 2)
    raw = torch.logit(slopes / (3 * torch.stack([first, last], -1)))
    shape = (_raw(across, MIN_WIDTH), _raw(up, MIN_HEIGHT), raw[:, :1], raw[:, 1:])
    _both_ways(spline, params, x, lambda value, **options: cubic_spline(value, *shape, quadratic_threshold=0.0, **options), 1e-5)


def test_linear_rational_against_pyro() -> None:
    """pyro holds the slope 0.999 at both ends, and takes points up to 1e-6 beyond a knot for the bin before it."""
    pytest.importorskip("pyro")
    from pyro.distributions.transforms.spline import _monotonic_rational_spline as peer

    bound = 3.0
    spline = LinearRationalSpline(BINS, bound, ends="bounded")
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(ROWS, 1, spline.parameter_count, dtype=torch.float64, generator=generator)
    x = bound * (2 * torch.rand(ROWS, 1, dtype=torch.float64, generator=generator) - 1)
    params[..., [3 * BINS, -1]] = math.log(math.expm1(0.999 - MIN_SLOPE))
    widths, heights, splits, slopes = params.split([BINS, BINS, BINS, BINS + 1], dim=-1)
    parts = (widths.softmax(-1), heights.softmax(-1), functional.softplus(slopes[..., 1:-1]), splits.sigmoid())
    _agree(spline.transform(x, params), peer(x, *parts, bound=bound), 1e-5)
    far = (x.unsqueeze(-1) - knots(widths, -bound, bound, MIN_WIDTH).left).abs().amin(-1) > 2e-6
    _agree(tuple(part[far] for part in spline.transform(x, params)), tuple(part[far] for part in peer(x, *parts, bound=bound)), 1e-10)
    _agree(spline.untransform(x, params), peer(x, *parts, bound=bound, inverse=True), 1e-5)


@pytest.mark.parametrize("cls", SMOOTH)
def test_slopes_at_the_ends(cls: Any) -> None:
    """1 at linear ends, the same at both ends of a circle."""
    for ends in ("linear", "circular"):
        spline, params, _ = _draw(cls, ends)
        low, high = (torch.full((ROWS,), end, dtype=torch.float64) for end in (LOW, HIGH))
        for function in (spline.transform, spline.untransform):
            (first, at_low), (last, at_high) = function(low, params), function(high, params)
            torch.testing.assert_close(torch.stack([first, last]), torch.stack([low, high]), atol=1e-12, rtol=0)
            torch.testing.assert_close(at_low, at_high, atol=1e-9, rtol=0)
            if ends == "linear":
                torch.testing.assert_close(at_low, torch.zeros_like(at_low), atol=1e-9, rtol=0)


@pytest.mark.parametrize("cls", FAMILIES)
@pytest.mark.parametrize("ends", [*KINDS, KINDS])
def test_identity_at_first(cls: Any, ends: Any) -> None:
    spline = cls(BINS, (LOW, HIGH), ends=ends)
    points = torch.linspace(LOW, HIGH, 301, dtype=torch.float64).reshape(-1, 1).expand(-1, 3)
    params = spline.initial_parameters().double().expand(*points.shape, -1)
    for function in (spline.transform, spline.untransform):
        value, log_slope = function(points, params)
        torch.testing.assert_close(value, points, atol=1e-6, rtol=0)
        torch.testing.assert_close(log_slope, torch.zeros_like(log_slope), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cls", FAMILIES)
def test_mixed_ends_are_each_kind(cls: Any) -> None:
    """A column of a mixed spline is the spline of its one kind."""
    mixed, params, x = _draw(cls, KINDS)
    knot = cls.per_bin * BINS
    for column, ends in enumerate(KINDS):
        alone = cls(BINS, (LOW, HIGH), ends=ends)
        rest = params[:, knot + (ends == "linear") :][:, : alone.parameter_count - knot]
        for name in ("transform", "untransform"):
            together = getattr(mixed, name)(x.unsqueeze(-1).expand(-1, 3), params.unsqueeze(-2).expand(-1, 3, -1))
            _agree(tuple(part[:, column] for part in together), getattr(alone, name)(x, torch.cat([params[:, :knot], rest], -1)), 1e-12)


def test_cubic_root_over_all_slopes() -> None:
    """Five steps of Halley's method and two of Newton's reach the root from every start, relative to its distance from the knot."""
    slopes = torch.cat([torch.logspace(-6.5, 0, 30), torch.linspace(1, 3, 31)]).double()
    shares = torch.cat([torch.zeros(1), torch.logspace(-30, -1, 60), torch.linspace(0.1, 0.5, 40)]).double()
    near, far, share = (part.flatten() for part in torch.meshgrid(slopes, slopes, shares, indexing="ij"))
    allowed = (near <= 2) | (far <= 2)  # at most one end of a bin is an end of the interval
    near, far, share = near[allowed], far[allowed], share[allowed]
    t = share_root(share, near, far)
    for _ in range(2):
        u = 1 - t
        t = t - (t * (near * u * u + (3 - far) * t * u + t * t) - share) / (near * u * u + 2 * (3 - near - far) * t * u + far * t * t)
    u = 1 - t
    assert float(t.min()) >= 0 and float(t.max()) < 0.8
    assert float(((t * (near * u * u + (3 - far) * t * u + t * t) - share).abs() / share.clamp(min=1e-40)).max()) <= 1e-14


def test_cubic_inverse_has_exact_derivatives() -> None:
    spline, params, x = _draw(CubicSpline, KINDS, rows=3)
    x, params = x.clamp(LOW + 0.1, HIGH - 0.1).requires_grad_(), params.requires_grad_()
    assert torch.autograd.gradcheck(spline.untransform, (x, params))
    assert torch.autograd.gradgradcheck(spline.untransform, (x, params))


def _failures(there: Callable[..., Pair], back: Callable[..., Pair], x: Tensor, params: Tensor) -> int:
    """Values of ``there`` in float32 that are wrong or not finite, judged by the opposite direction in float64.

    A value is right if some point within 16 roundings of it is taken back to within 1e-5 of x, on the scale of the interval.
    """
    try:
        value, log_slope = there(x, params)
    except Exception:
        return len(x)
    scale, wide = max(abs(LOW), abs(HIGH)), params.double()
    near = value.double().nan_to_num(0.0)
    before, after = (back((near + sign * 16 * EPS32 * scale).clamp(LOW, HIGH), wide)[0] for sign in (-1, 1))
    right = (before - 1e-5 * scale <= x) & (after + 1e-5 * scale >= x)
    return int((~right | ~torch.isfinite(value) | ~torch.isfinite(log_slope)).sum())


@pytest.mark.parametrize("scale", [3.0, 100.0])
@pytest.mark.parametrize("cls", [*FAMILIES, RationalQuadraticSpline])
def test_float32_stress(cls: Any, scale: float) -> None:
    for ends in KINDS:
        spline, params, x = _draw(cls, ends, 3.0, torch.float32, 20_000)
        params = params if scale == 3.0 else 100 * params.sign()
        assert _failures(spline.transform, spline.untransform, x, params) == 0
        assert _failures(spline.untransform, spline.transform, x, params) == 0
        for function in (spline.transform, spline.untransform):
            leaves = (x[:2000].clone().requires_grad_(), params[:2000].clone().requires_grad_())
            for gradient in torch.autograd.grad([part.sum() for part in function(*leaves)], leaves):
                assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", ["quadratic", "cubic"])
def test_nflows_fails_the_same_run(name: str) -> None:
    """With raw numbers from N(0, 3^2) and bounded ends its inverses lose some points in 20 000 (the quadratic 14, the cubic 409)."""
    cls = {"quadratic": QuadraticSpline, "cubic": CubicSpline}[name]
    _, params, x = _draw(cls, "bounded", 3.0, torch.float32, 20_000)
    box = {"left": LOW, "right": HIGH, "bottom": LOW, "top": HIGH}

    def peer(value: Tensor, raw: Tensor, inverse: bool) -> Pair:
        if name == "quadratic":
            return quadratic_spline(value, raw[:, :BINS], raw[:, BINS:], inverse=inverse, **box)
        return cubic_spline(value, raw[:, :BINS], raw[:, BINS : 2 * BINS], raw[:, -2:-1], raw[:, -1:], inverse=inverse, **box)

    assert _failures(lambda v, p: peer(v, p, True), lambda v, p: peer(v, p, False), x, params) > 0


@pytest.mark.parametrize("cls", [*FAMILIES, RationalQuadraticSpline])
def test_bounds(cls: Any) -> None:
    """Infinite and NaN bounds are refused; finite ones keep their last bits."""
    for bound in (math.inf, math.nan, (0.0, math.inf), (-math.inf, 0.0), (math.nan, 1.0), (1.0, 1.0)):
        with pytest.raises(ConfigError, match="finite"):
            cls(4, bound)
    for ends in ("circular", ["linear", "circular"]):
        spline = cls(4, math.pi, ends=ends)
        assert float(spline.intervals(2)[1][1]) == math.pi
        layers = [Coupling(2, spline, (4,)), Autoregressive(2, spline, hidden=(4,)), Elementwise(2, spline)]
        assert all(float(layer.double().domain.high_buffer[1]) == math.pi for layer in layers)


def test_a_quadratic_spline_needs_three_bins() -> None:
    with pytest.raises(ConfigError, match="3 <= bins"):
        QuadraticSpline(2)


def test_start_of_free_cubic_ends() -> None:
    spline = CubicSpline(4, 1.0, ends="bounded")
    share = MIN_END + (1 - MIN_END) * spline.initial_parameters()[-2:].double().sigmoid()
    torch.testing.assert_close(3 * share, torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert LinearRationalSpline(4).initial_parameters()[-1] == pytest.approx(UNIT_SLOPE)
