"""Numbers far out and narrow ones: root searches over the dtype's range, unsolved equations, outliers, half precision, flat spots, starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit import checks
from flowkit.bijectors import Radial
from flowkit.core.errors import NotInvertibleError
from flowkit.core.univariate import Univariate
from flowkit.flows import BNAF, Gaussianization, SOSFlow
from flowkit.kernels.iterative import root
from flowkit.numerics.log_normal_cdf import log_interval, log_ndtr, log_ndtri
from flowkit.numerics.normal_tails import log_q, normal_cdf, upper_quantile
from flowkit.univariates import CensoredLogisticMixtureCDF, DeepSigmoidal, GaussianMixtureCDF, LogisticMixtureCDF, SumOfSquares
from flowkit.univariates._iterative import IterativeUnivariate


class Steep(IterativeUnivariate):
    """x = z / 1000 + z^power for an odd power; ``broken`` ones are bounded, so that most x have no root."""

    parameter_count = 1

    def __init__(self, power: int = 7, broken: bool = False) -> None:
        super().__init__()
        self.power, self.broken = power, broken

    def _coefficients(self, params: Tensor) -> tuple[Tensor, ...]:
        return (params[..., 0],)

    def _evaluate(self, z: Tensor, *coefficients: Tensor) -> tuple[Tensor, Tensor]:
        if self.broken:
            return torch.tanh(z) + coefficients[0], -2 * torch.log(torch.cosh(z.clamp(-40, 40)))
        return 1e-3 * z + z**self.power + coefficients[0], torch.log(1e-3 + self.power * z ** (self.power - 1))


def _solved(function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """The root of each x alone, with the search's verdict checked, and at most 80 evaluations."""
    calls = 0

    def counted(z: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return function(z)

    z, done = root(counted, x, -math.inf, math.inf)
    assert bool(done.all()) and calls <= 80
    return z


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("power", [3, 7, 15])
def test_root_over_the_whole_range(power: int, dtype: torch.dtype) -> None:
    """Where the value at x itself, the start, overflows; brackets from 0 to the largest number need a middle on a log scale."""
    info, u = torch.finfo(dtype), Steep(power)
    sizes = torch.tensor([1.0, 1e4, 1e10, 1e30, info.max / 100, info.max], dtype=dtype)
    for x in (*sizes, *-sizes):
        z = _solved(lambda z: u._evaluate(z, torch.zeros_like(z)), x)
        reached, log_slope = u._evaluate(z, torch.zeros_like(z))
        assert float((reached - x).abs()) <= 4 * info.eps * float(x.abs() + torch.nan_to_num(log_slope.exp() * z.abs()))


def test_polynomial_far_out_with_parameters_of_size_one() -> None:
    """x = 1e30 once came back as z = -7e10; with the straight lines out of the way the polynomial alone must do."""
    u = SumOfSquares(3, 3, bound=1e40).double()
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(50, u.parameter_count, dtype=torch.float64, generator=generator)
    for size in (1e10, 1e30, -1e30, 1e100, -1e200):
        x = torch.full((50,), size, dtype=torch.float64)
        z, _ = u.untransform(x, params)
        assert float((u.transform(z, params)[0] / x - 1).abs().max()) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_unsolved_is_never_silent(dtype: torch.dtype) -> None:
    """The error names the class on the CPU; elsewhere, here with checks off and under vmap, the element is NaN, the others are right."""
    u, x = Steep(broken=True), torch.tensor([0.5, 3.0, -0.25], dtype=dtype)
    params = torch.zeros(3, 1, dtype=dtype)
    with pytest.raises(NotInvertibleError, match=r"Steep.*1 of 3"):
        u.untransform(x, params)
    with checks(values=False):
        z, log_slope = u.untransform(x, params)
    for value in (z, log_slope, *torch.func.vmap(u.untransform)(x, params)):
        assert torch.isnan(value).tolist() == [False, True, False]
    torch.testing.assert_close(z[[0, 2]], torch.atanh(x[[0, 2]]))
    # nothing to solve: passed on, not refused
    assert bool(torch.isnan(u.untransform(torch.full((3,), math.nan, dtype=dtype), params)[0]).all())
    assert torch.isnan(u.untransform(x[:1], torch.full((1, 1), math.nan, dtype=dtype))[0]).tolist() == [True]


MAPS: list[Univariate] = [GaussianMixtureCDF(4), LogisticMixtureCDF(4), CensoredLogisticMixtureCDF(4), DeepSigmoidal(4), DeepSigmoidal(3, 2)]


@pytest.mark.parametrize("u", MAPS, ids=lambda u: f"{type(u).__name__}{u.parameter_count}")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_flat_spots_have_finite_gradients(u: Univariate, dtype: torch.dtype) -> None:
    """Parameters of 30 and 100 standard deviations: components far apart, flat to rounding in between, where z is hardly determined."""
    u, generator = u.to(dtype), torch.Generator().manual_seed(4)
    for scale in (30.0, 100.0):
        raw = torch.randn(400, u.parameter_count, dtype=torch.float64, generator=generator)
        params = (u.initial_parameters().double() + scale * raw).to(dtype).requires_grad_()
        at = 0.5 * scale * torch.randn(400, dtype=torch.float64, generator=generator).to(dtype)
        x = u.transform(at.clamp(u.low, u.high), params.detach())[0].detach().requires_grad_()
        z, log_slope = u.untransform(x, params)
        assert bool(torch.isfinite(z).all() and torch.isfinite(log_slope).all())
        for gradient in torch.autograd.grad(z.sum() + log_slope.sum(), [x, params]):
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("size", [1e3, -1e3, 1e4, -1e4])
def test_one_outlier_does_not_end_a_fit(size: float) -> None:
    torch.manual_seed(0)
    flow = SOSFlow(2)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    data = torch.tensor([[size, 0.0], [1.0, size], [0.5, -0.5]])
    log_prob = flow.log_prob(data)
    assert bool(torch.isfinite(log_prob).all())
    (-log_prob.mean()).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in flow.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normal_tails_in_half_precision(dtype: torch.dtype) -> None:
    """The same numbers as in float32, rounded once at the end."""
    v = torch.linspace(-6, 6, 49).to(dtype)
    log_tail = (-0.7 - v.abs()).to(dtype)
    calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (log_q, (v,)), (normal_cdf, (v,)), (log_ndtr, (v,)), (log_ndtri, (log_tail,)), (upper_quantile, (torch.zeros_like(v), log_tail)),
        (lambda a, b: log_interval(a, b)[0], (v, v + 1)), (lambda a, b: log_interval(a, b)[1], (v, v + 1)),
    ]  # fmt: skip
    for function, arguments in calls:
        got, wanted = function(*arguments), function(*(argument.float() for argument in arguments)).to(dtype)
        assert got.dtype == dtype and bool(torch.isfinite(got).all()) and torch.equal(got, wanted)


def test_gaussianization_in_bfloat16() -> None:
    torch.manual_seed(0)
    flow, x = Gaussianization(2), torch.randn(64, 2)
    wanted = flow.log_prob(x.bfloat16().float())
    got = flow.bfloat16().log_prob(x.bfloat16())
    assert bool(torch.isfinite(got).all()) and float((got.float() - wanted).abs().mean().detach()) < 0.2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_radial_over_the_whole_range(dtype: torch.dtype) -> None:
    """From 1e-30 to near the largest number: the log_det is that of float64 formulas, and all gradients are finite."""
    torch.manual_seed(0)
    ours, largest = Radial(3).to(dtype), torch.finfo(dtype).max
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    centre, alpha, gamma = (part.detach() for part in ours._parts(None))
    way = torch.tensor([0.6, 0.0, -0.8], dtype=dtype)
    for r in (0.0, 1e-30, 1e-3, 1.0, 1e18, 1e20, 1e30, largest / 4):
        a, g = float(alpha), float(gamma)
        wanted = 2 * math.log(g / a if r == 0 else (g / r + 1) / (a / r + 1)) + math.log((r / (a + r)) * (1 + a / (a + r)) + (a / (a + r)) * (g / (a + r)))
        z = (centre + r * way).requires_grad_()
        x, log_det = ours(z)
        back, back_log_det = ours.inverse(x)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        assert abs(log_det.item() - wanted) <= tolerance and abs(back_log_det.item() + wanted) <= tolerance
        assert float(((back - z) / max(r, 1.0)).detach().abs().max()) <= tolerance
        for value, total in ((x, log_det), (back, back_log_det)):
            for gradient in torch.autograd.grad((value / max(r, 1.0)).sum() + total, [z, *ours.parameters()], retain_graph=True):
                assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("options", [{}, {"layers": 1}, {"features": 5}, {"hidden": (16,)}, {"hidden": (8, 8, 8)}], ids=str)
def test_bnaf_starts_near_the_identity(options: dict[str, Any]) -> None:
    """Standard normal data score at once near their entropy (3.90 in place of 2.84 once), and samples spread like them."""
    torch.manual_seed(0)
    flow = BNAF(**{"features": 2, **options})
    z = torch.randn(2000, flow.features)
    entropy = -flow.base.log_prob(z).mean()  # of this very sample
    assert abs(float((-flow.log_prob(z).mean() - entropy).detach())) < 0.05 * flow.features / 2
    assert 0.9 < flow.sample((2000,)).std().item() < 1.2
