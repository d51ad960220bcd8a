"""Monotone maps with numerical inverses: against zuko, torch.distributions, fine quadrature and closed forms; far out; mass one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from zuko.transforms import BernsteinTransform, SOSPolynomialTransform, UnconstrainedMonotonicTransform

from flowkit.core.univariate import Univariate
from flowkit.univariates import (
    Bernstein,
    CensoredLogisticMixtureCDF,
    DeepSigmoidal,
    GaussianMixtureCDF,
    LogisticMixtureCDF,
    MonotoneIntegral,
    SumOfSquares,
)
from flowkit.univariates.sum_of_squares import MIN_SLOPE

ROWS = 200
WHOLE_LINE: list[Univariate] = [
    GaussianMixtureCDF(4), LogisticMixtureCDF(4), DeepSigmoidal(4), DeepSigmoidal(3, 2), MonotoneIntegral(4), SumOfSquares(2, 3), Bernstein(6),
]  # fmt: skip


def _parameters(u: Univariate, scale: float, rows: int = ROWS) -> Tensor:
    noise = torch.randn(rows, u.parameter_count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return u.initial_parameters().double() + scale * noise


def _points(scale: float = 2.0) -> Tensor:
    return scale * torch.randn(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _mixture(weights: Tensor, parts: torch.distributions.Distribution) -> torch.distributions.MixtureSameFamily:
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=weights), parts)


def _near(got: Tensor, wanted: Tensor, tolerance: float = 1e-10) -> None:
    error = float(((got - wanted).abs() / wanted.abs().clamp(min=1)).max())
    assert error <= tolerance, f"off by {error:.2e}"


def test_gaussian_mixture_against_torch() -> None:
    u = GaussianMixtureCDF(3)
    params, z = _parameters(u, 0.5), _points()
    weights, means, scales = params.split(3, dim=-1)
    mixture = _mixture(weights, torch.distributions.Normal(means, torch.exp(3 * torch.tanh(scales / 3))))
    x, log_slope = u.transform(z, params)
    inner = x.abs() < 5  # beyond, 1 - cdf has lost its digits
    _near(torch.special.ndtr(x), mixture.cdf(z), 1e-14)
    _near(x[inner], torch.special.ndtri(mixture.cdf(z))[inner], 1e-9)
    _near(log_slope, mixture.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(x))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_gaussian_mixture_tail(sign: float) -> None:
    """Far out the widest component is alone: the normal tail of weight w lies at t - log(w) / t up to terms of order t^-3."""
    u = GaussianMixtureCDF(2)
    params = torch.tensor([0.0, 1.0, -1.0, 0.5, 0.0, 0.3], dtype=torch.float64)
    scale, log_weight = math.exp(3 * math.tanh(0.1)), float(torch.log_softmax(params[:2], 0)[1])
    for size in (1e3, 1e4, 1e8):
        t = (size - sign * 0.5) / scale
        x, log_slope = u.transform(torch.tensor(sign * size, dtype=torch.float64), params)
        assert float(x) == pytest.approx(sign * (t - log_weight / t), abs=10 / t**3 + 1e-14 * t)
        assert float(log_slope) == pytest.approx(-math.log(scale) + math.log1p(log_weight / t**2), abs=10 / t**4 + 1e-14)
        single = u.float().transform(torch.tensor(sign * size), params.float())[1]
        assert float(single) == pytest.approx(float(log_slope), abs=1e-5)
        u.double()


def test_logistic_mixture_against_torch() -> None:
    u = LogisticMixtureCDF(3)
    params, z = _parameters(u, 0.5), _points()
    weights, means, scales, affine = params.split([3, 3, 3, 2], dim=-1)
    to_logistic = [torch.distributions.SigmoidTransform().inv, torch.distributions.AffineTransform(means, torch.exp(3 * torch.tanh(scales / 3)))]
    ends = torch.zeros_like(means), torch.ones_like(means)
    mixture = _mixture(weights, torch.distributions.TransformedDistribution(torch.distributions.Uniform(*ends, validate_args=False), to_logistic))
    x, _ = u.transform(z, params)
    _near(x, torch.logit(mixture.cdf(z)) * torch.exp(3 * torch.tanh(affine[:, 0] / 3)) + affine[:, 1], 1e-9)


def test_censored_mixture_is_the_ratio_of_cdf_differences() -> None:
    u = CensoredLogisticMixtureCDF(3, -2.0, 3.0)
    params = _parameters(u, 0.5)
    place = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights, means, scales = params.split(3, dim=-1)

    def cdf(at: Tensor) -> Tensor:
        return torch.sigmoid((at - means) * torch.exp(-2.5 * torch.tanh(scales / 2.5)))

    first, last = cdf(torch.zeros(1)), cdf(torch.ones(1))
    wanted = (torch.softmax(weights, -1) * (cdf(place.unsqueeze(-1)) - first) / (last - first)).sum(-1)
    _near(u.transform(5 * place - 2, params)[0], 5 * wanted - 2)


def test_deep_sigmoidal_against_pyro_formula() -> None:
    """One layer: logit of a weighted sum of sigmoids, as in pyro's NeuralAutoregressive with its own parameters."""
    pyro = pytest.importorskip("pyro.distributions.transforms.neural_autoregressive")
    u = DeepSigmoidal(4)
    params, z = _parameters(u, 0.5), _points()
    rates, shifts, _, weights = u._coefficients(params)
    raw = (rates.exp().expm1().log()[:, :, None], weights[:, 0, :, None], shifts[:, :, None])  # (rows, units, 1): softplus gives back the rates
    other = pyro.NeuralAutoregressive(lambda _: raw, hidden_units=4)
    wanted = other._call(z[:, None])
    x, log_slope = u.transform(z, params)
    _near(x, wanted[:, 0], 1e-9)
    _near(log_slope, other.log_abs_det_jacobian(z[:, None], wanted), 1e-6)  # pyro adds 1e-8 to its rates


def test_sum_of_squares_against_zuko_and_expanded_coefficients() -> None:
    u = SumOfSquares(2, 3, scale=10.0)  # a polynomial up to |z| = 50
    params, z = _parameters(u, 0.5), _points(3.0)
    polynomials = params[:, 1:].unflatten(-1, (2, 4))
    # zuko's is the mean of (1 + a_0 + a_1 u + ...)^2 plus its own floor
    a = polynomials * math.sqrt(2) - torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    zuko = SOSPolynomialTransform(a, slope=MIN_SLOPE / (1 - MIN_SLOPE))
    x, log_slope = u.transform(z, params)
    wanted, ladj = zuko.call_and_ladj(z)
    _near(x - params[:, 0], (1 - MIN_SLOPE) * wanted)
    _near(log_slope, ladj + math.log1p(-MIN_SLOPE))
    square = sum(torch.nn.functional.conv1d(p.unsqueeze(0), p.flip(-1).unsqueeze(1), padding=3, groups=ROWS)[0] for p in polynomials.unbind(1))
    powers = torch.arange(7, dtype=torch.float64)
    expanded = (square * (z / 10).unsqueeze(-1) ** (powers + 1) / (powers + 1)).sum(-1) * 10
    _near(x - params[:, 0], MIN_SLOPE * z + (1 - MIN_SLOPE) * expanded)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sum_of_squares_has_straight_tails(dtype: torch.dtype) -> None:
    """Beyond bound * scale the map is the tangent of the polynomial at that point; inside it is the polynomial."""
    u, whole = SumOfSquares(2, 3, scale=2.0, bound=3.0).to(dtype), SumOfSquares(2, 3, scale=2.0, bound=1e6).to(dtype)
    params = _parameters(u, 0.5).to(dtype)
    inside, edge = _points(2.0).clamp(-6, 6).to(dtype), torch.full((ROWS,), 6.0, dtype=dtype)
    assert torch.equal(u.transform(inside, params)[0], whole.transform(inside, params)[0])
    for sign in (1.0, -1.0):
        x, log_slope = whole.transform(sign * edge, params)
        for size in (6.0, 10.0, 1e4, 1e30):
            z = torch.full((ROWS,), sign * size, dtype=dtype, requires_grad=True)
            got, got_log_slope = u.transform(z, params)
            wanted = x + log_slope.exp() * (z - sign * edge)
            _near(got.detach() / size, wanted.detach() / size, 1e-13 if dtype == torch.float64 else 1e-5)
            _near(got_log_slope.detach(), log_slope, 1e-13 if dtype == torch.float64 else 1e-6)
            if size > 6:
                (slope,) = torch.autograd.grad(got.sum(), z)
                _near(slope.log(), log_slope, 1e-13 if dtype == torch.float64 else 1e-5)


def test_bernstein_against_zuko() -> None:
    """zuko's polynomial with its coefficients set to ours, inside and on the straight ends."""
    u = Bernstein(8, 5.0)
    params, z = _parameters(u, 0.5), _points(4.0)
    zuko = BernsteinTransform(torch.zeros(ROWS, 7, dtype=torch.float64), bound=5.0)
    zuko.theta = u._coefficients(params)[1]
    zuko.offset, zuko.slope = zuko._offset_and_slope()
    inside = z.abs() < 4.99
    assert bool(inside.any()) and not bool(inside.all())
    _near(u.transform(z, params)[0][inside], zuko.f(z)[inside])
    _near(u.transform(z, params)[0], zuko.f(z), 1e-4)  # it starts its straight lines 1e-6 inside, with an offset of that size


def test_integral_against_zuko_and_fine_quadrature() -> None:
    """The value is zuko's with the same integrand; value and slope are those of the integral itself."""
    u = MonotoneIntegral(6, 5.0).double()
    params, z = _parameters(u, 1.0), _points()
    z = z.clamp(-5, 5)
    beta, *net = u._coefficients(params)
    x, log_slope = u.transform(z, params)
    zuko = UnconstrainedMonotonicTransform(lambda t: u._integrand((t / 5).unsqueeze(-1), *net)[0].squeeze(-1), n=64)
    _near(x, zuko.f(z) + beta)
    fine = torch.linspace(0, 1, 4001, dtype=torch.float64)
    g = u._integrand((z / 5).unsqueeze(-1) * fine, *net)[0]
    weights = torch.ones(4001, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2  # Simpson's rule
    _near(x, beta + z * (g * weights).sum(-1) / 12000, 1e-9)
    _near(log_slope, g[:, -1].log(), 1e-8)


@pytest.mark.parametrize("u", WHOLE_LINE, ids=lambda u: f"{type(u).__name__}{u.parameter_count}")
def test_inverse_has_no_range_limit(u: Univariate) -> None:
    """|x| = 15, where peers' brackets end, to 1e6 and 1e30, from parameters far from the start."""
    u = u.double()
    params = _parameters(u, 1.0, 60)
    for size in (15.0, 25.0, 1e3, 1e4, 1e6, 1e30):
        for x in (torch.full((60,), size, dtype=torch.float64), torch.full((60,), -size, dtype=torch.float64)):
            z, log_slope = u.untransform(x, params)
            back, log_slope_back = u.transform(z, params)
            _near(back / size, x / size, 1e-12)
            _near(log_slope, -log_slope_back, 1e-9)


def test_inverse_survives_flat_spots() -> None:
    """Narrow components far apart: Newton's steps would leave for infinity, the root is found all the same."""
    for u in (GaussianMixtureCDF(3), LogisticMixtureCDF(3)):
        params, x = _parameters(u, 3.0), _points(3.0)
        z, log_slope = u.untransform(x, params)
        allowed = 1e-12 + 1e-14 * (-log_slope).exp() * z.abs()  # one rounding of z where the map is steep
        assert bool(((u.transform(z, params)[0] - x).abs() <= allowed * x.abs().clamp(min=1)).all())


@pytest.mark.parametrize(
    "u", [*WHOLE_LINE, CensoredLogisticMixtureCDF(3), Bernstein(5, 2.0, ends="bounded")], ids=lambda u: f"{type(u).__name__}{u.parameter_count}"
)
def test_mass_is_one(u: Univariate) -> None:
    """As a density over data: a normal (uniform on an interval) pulled back by transform integrates to one."""
    u = u.double()
    params = _parameters(u, 0.7, 3)[:, None]
    bounded = math.isfinite(u.low)
    ends = torch.tensor([u.low, u.high] if bounded else [-9.0, 9.0], dtype=torch.float64).expand(3, 2)
    if not bounded:
        ends = u.untransform(ends, params.expand(3, 2, -1))[0].detach()
    nodes = torch.linspace(0, 1, 20001, dtype=torch.float64)
    z = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * nodes
    with torch.no_grad():
        x, log_slope = u.transform(z, params)
    log_base = torch.full_like(x, -math.log(u.high - u.low)) if bounded else torch.distributions.Normal(0.0, 1.0).log_prob(x)
    mass = torch.trapezoid((log_base + log_slope).exp(), z)
    _near(mass, torch.ones(3, dtype=torch.float64), 1e-4)
