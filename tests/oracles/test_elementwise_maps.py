"""Elementwise maps, constraint maps and distribution functions against torch, zuko, nflows, normflows, Pyro and SciPy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import transforms as tt

from flowkit import bijectors as fb
from flowkit import distributions as fd
from flowkit import univariates as fu
from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.transform import Bijector
from flowkit.numerics.activations import log_sech, soft_bounded, softplus_inverse

Z = torch.linspace(-4.0, 4.0, 33, dtype=torch.float64).unsqueeze(-1)
POSITIVE = torch.linspace(0.05, 6.0, 33, dtype=torch.float64).unsqueeze(-1)


def agree(f: Any, peer: Any, z: Tensor, rank: int = 1) -> None:
    """Value and volume change of a map and of a torch transform, in both directions."""
    x, log_det = f(z)
    wanted = peer(z)
    torch.testing.assert_close(x, wanted, rtol=1e-10, atol=1e-10)
    volume = peer.log_abs_det_jacobian(z, wanted)
    torch.testing.assert_close(log_det, volume.reshape(*log_det.shape, -1).sum(-1), rtol=1e-9, atol=1e-9)
    back, log_det_back = f.inverse(wanted)
    torch.testing.assert_close(back, z, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("f", "peer", "z"),
    [
        (fb.Sigmoid(1), tt.SigmoidTransform(), Z),
        (~fb.Sigmoid(1), tt.SigmoidTransform().inv, torch.sigmoid(Z)),
        (fb.Tanh(1), tt.TanhTransform(), Z),
        (~fb.Tanh(1), tt.TanhTransform().inv, torch.tanh(Z)),
        (fb.Softplus(1), tt.SoftplusTransform(), Z),
        (fb.Exp(1), tt.ExpTransform(), Z),
        (~fb.Exp(1), tt.ExpTransform().inv, POSITIVE),
        (fb.Power(1, exponent=3.0), tt.PowerTransform(torch.tensor(3.0)), POSITIVE),
        (fb.Power(1, exponent=-0.5), tt.PowerTransform(torch.tensor(-0.5)), POSITIVE),
    ],
)
def test_torch_transforms(f: Any, peer: Any, z: Tensor) -> None:
    agree(f.double(), peer, z)


def test_zuko_transforms() -> None:
    zt = pytest.importorskip("zuko.transforms")
    agree(fb.SoftClip(1, bound=5.0).double(), zt.SoftclipTransform(5.0), Z)
    agree(fb.Sine(1).double(), zt.SinTransform(), Z / 4 * 1.5)
    # zuko's is -cos, which increases
    agree(fb.Cosine(1).double(), tt.ComposeTransform([zt.CosTransform(), tt.AffineTransform(0.0, -1.0)]), (Z + 4.2) / 8.4 * math.pi)
    shift = fb.CircularShift(1, -3.0, 3.0, shift=3.0).double()
    x, _ = shift(Z * 0.7)
    torch.testing.assert_close(x, zt.CircularShiftTransform(3.0)(Z * 0.7), rtol=0, atol=1e-12)


def test_circular_shift_wraps() -> None:
    """3 turns by 1 on [-pi, pi) come back 2 pi earlier; the inverse undoes it; sums of shifts add modulo the period."""
    shift = fb.CircularShift(1, shift=1.0).double()
    x, log_det = shift(torch.tensor([[3.0], [0.0]], dtype=torch.float64))
    torch.testing.assert_close(x, torch.tensor([[4.0 - 2 * math.pi], [1.0]], dtype=torch.float64))
    assert not log_det.any()
    z = torch.tensor([[-3.1], [2.9]], dtype=torch.float64)
    torch.testing.assert_close((shift**7)(z)[0], fb.CircularShift(1, shift=7.0).double()(z)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "exp", "softclip", "sine", "cosine", "power"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_stay_finite(name: str, dtype: torch.dtype) -> None:
    """The ends of every domain and codomain, and +-inf's largest stand-ins, give finite values and log_dets both ways."""
    f = build({"name": name, "shape": 1}, Bijector).to(dtype)
    for call, domain in ((f.forward, f.domain), (f.inverse, f.codomain)):
        ends = [-1e30, 1e30] if domain.trivial else [float(end) for end in (domain.low_buffer, domain.high_buffer)]
        ends = [end if math.isfinite(end) else math.copysign(1e30, end) for end in ends]
        for end in ends:
            point = torch.tensor([[end]], dtype=dtype, requires_grad=True)
            value, log_det = call(point)
            (gradient,) = torch.autograd.grad(value.sum(), point)
            assert bool(torch.isfinite(value).all() and torch.isfinite(log_det).all() and torch.isfinite(gradient).all()), (name, end)


def test_logit_near_its_ends_in_float32() -> None:
    """~Sigmoid of 1e-30, and of 1 - 2^-24, to float32 accuracy."""
    x = torch.tensor([[1e-30], [1.0 - 2.0**-24]])
    wanted = torch.special.logit(x.double())
    z, log_det = (~fb.Sigmoid(1))(x)
    torch.testing.assert_close(z.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(log_det.double(), -(x.double().log() + torch.log1p(-x.double())).squeeze(-1), rtol=1e-6, atol=0)


# -- univariates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({"bound": 2.0}, lambda raw: torch.exp(2 * torch.tanh(raw / 2))),
        ({"scale": "exp"}, torch.exp),
        ({"scale": "softplus", "offset": 0.0, "floor": 1e-3}, lambda raw: torch.nn.functional.softplus(raw) + 1e-3),
        ({"scale": "sigmoid"}, lambda raw: torch.sigmoid(raw + 2) + 1e-3),
        ({"scale": "sigmoid_inverse", "floor": 0.0}, lambda raw: 1 / torch.sigmoid(raw + 2)),
    ],
)
def test_scale_maps(options: dict[str, Any], formula: Any) -> None:
    raw = torch.linspace(-8.0, 8.0, 41, dtype=torch.float64)
    params = torch.stack([torch.full_like(raw, 0.5), raw], -1)
    x, log_slope = fu.Affine(**options).transform(torch.ones_like(raw), params)
    torch.testing.assert_close(log_slope.exp(), formula(raw), rtol=1e-12, atol=0)
    torch.testing.assert_close(x, formula(raw) + 0.5, rtol=1e-12, atol=0)


def test_scale_maps_keep_tiny_scales() -> None:
    """log(softplus(-80)) is -80 in float32, where softplus itself is 1.8e-35; start and refusals are as documented."""
    params = torch.tensor([0.0, -80.0])
    assert float(fu.Affine(scale="softplus", offset=0.0, floor=0.0).transform(torch.ones(()), params)[1]) == pytest.approx(-80.0)
    for scale in ("tanh", "exp", "softplus"):
        u = fu.Affine(scale=scale)  # type: ignore[arg-type]
        assert float(u.transform(torch.ones(()), u.initial_parameters())[1]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ConfigError):
        fu.Affine(scale="exp", floor=0.1)
    with pytest.raises(ConfigError):
        fu.Affine(scale="cosine")  # type: ignore[arg-type]


def test_nflows_affine_coupling_scale() -> None:
    """scale='sigmoid' is the scale of nflows' affine coupling layers, whose first half of the parameters is the shift's or the scale's."""
    couplings = pytest.importorskip("nflows.transforms.coupling")
    layer = couplings.AffineCouplingTransform(torch.tensor([0, 1]), lambda features, out: torch.nn.Linear(features, out))
    raw = torch.linspace(-5.0, 5.0, 9)
    with torch.no_grad():
        scale, shift = layer._scale_and_shift(torch.stack([torch.full((9,), 0.25), raw], -1))
    if scale.shape[-1] == 1:  # (B, 1): one transformed feature
        scale, shift = scale[:, 0], shift[:, 0]
    swapped = bool((shift != 0.25).any())
    log_scale = fu.Affine(scale="sigmoid").transform(torch.ones(9), torch.stack([torch.zeros(9), torch.full((9,), 0.25) if swapped else raw], -1))[1]
    torch.testing.assert_close(log_scale.exp(), scale)
    assert torch.equal(shift, raw if swapped else torch.full((9,), 0.25))


def elementwise(u: Any, *raw: float) -> Any:
    """The univariate on one coordinate with given parameters."""
    f = fb.Elementwise(1, u).double()
    with torch.no_grad():
        next(iter(f.parameters())).copy_(torch.tensor(raw))
    return f


def test_activations_against_their_formulas() -> None:
    z = Z
    leaky = elementwise(fu.LeakyReLU(), 5 * math.atanh(math.log(0.01) / 5), 0.0)
    torch.testing.assert_close(leaky(z)[0], torch.nn.functional.leaky_relu(z, 0.01), rtol=1e-6, atol=1e-6)
    bent = elementwise(fu.BentIdentity(), math.atanh(0.5 / 0.95))
    torch.testing.assert_close(bent(z)[0], z + (torch.sqrt(z**2 + 1) - 1) / 2, rtol=1e-6, atol=1e-6)
    alpha = (1 - 0.1) / (1 + 0.1)
    sneaky = elementwise(fu.SneakyReLU(), 3 * math.atanh(math.log(0.1) / 3), 0.0)
    torch.testing.assert_close(sneaky(z)[0], (z + alpha * (torch.sqrt(1 + z**2) - 1)) / (1 + alpha), rtol=1e-6, atol=1e-6)
    k = 1.0
    share = (3 * k - 1e-3) / 5
    tanh = elementwise(fu.LeakyTanh(3.0), math.log(share / (1 - share)))
    inside = z.abs() <= 3
    torch.testing.assert_close(tanh(z)[0][inside], torch.tanh(z)[inside], rtol=1e-6, atol=1e-6)
    line = math.tanh(3.0) + (z - 3.0) / math.cosh(3.0) ** 2
    torch.testing.assert_close(tanh(z)[0][z > 3], line[z > 3], rtol=1e-6, atol=1e-6)
    power = elementwise(fu.SignedPower(), math.atanh(math.log(2.0)))
    torch.testing.assert_close(power(z)[0], torch.sign(z) * ((1 + z.abs()) ** 2 - 1) / 2, rtol=1e-6, atol=1e-6)


def test_steep_bend_inverts_without_cancellation() -> None:
    """Slopes e^-3 and e^3 side by side in float32: the round trip keeps its digits from 1e-3 to 1e6."""
    f = elementwise(fu.SneakyReLU(), -40.0, 40.0).float()
    z = torch.logspace(-3, 6, 40).unsqueeze(-1)
    for point in (z, -z):
        torch.testing.assert_close(f(f.inverse(point)[0])[0], point, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["leaky_relu", "bent_identity", "sneaky_relu", "leaky_tanh", "signed_power"])
def test_activations_inside_coupling_and_autoregression(name: str) -> None:
    torch.manual_seed(0)
    for wrapper in ("coupling", "autoregressive"):
        f = build({"name": wrapper, "features": 3, "univariate": {"name": name}, "hidden": [8]}, Bijector).double()
        for parameter in f.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        z = torch.randn(7, 3, dtype=torch.float64)
        x, log_det = f(z)
        jacobian = torch.stack([torch.func.jacrev(lambda point, f=f: f(point)[0])(row) for row in z])
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(f.inverse(x)[0], z, rtol=1e-8, atol=1e-8)


# -- constraints -------------------------------------------------------------------------------------------------------


def test_simplex_against_stick_breaking() -> None:
    z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = tt.StickBreakingTransform()(z)
    x, log_det = fb.ToSimplex(3).double()(z)
    torch.testing.assert_close(x, wanted[..., :-1])
    torch.testing.assert_close(log_det, tt.StickBreakingTransform().log_abs_det_jacobian(z, wanted))


def test_correlation_cholesky_against_torch() -> None:
    z = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    agree(fb.ToCorrelationCholesky(4).double(), tt.CorrCholeskyTransform(), z)
    x, _ = fb.ToCorrelationCholesky(4).double()(z)
    correlation = x @ x.mT
    torch.testing.assert_close(correlation.diagonal(dim1=-2, dim2=-1), torch.ones(6, 4, dtype=torch.float64))


def test_correlation_cholesky_near_one() -> None:
    """Correlations of 1 - 1e-13 go back to the latents they came from: the inverse reads the diagonal."""
    z = torch.tensor([[15.0, -14.0, 3.0]], dtype=torch.float64)
    f = fb.ToCorrelationCholesky(3).double()
    torch.testing.assert_close(f.inverse(f(z)[0])[0], z, rtol=1e-9, atol=1e-9)


def test_lower_cholesky() -> None:
    z = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = fb.ToLowerCholesky(3).double()
    x, log_det = f(z)
    square = torch.zeros(5, 3, 3, dtype=torch.float64)
    rows, columns = torch.tril_indices(3, 3)
    square[:, rows, columns] = z
    with_exp = tt.LowerCholeskyTransform()(square)
    torch.testing.assert_close(x.tril(-1), with_exp.tril(-1))
    diagonal = square.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(x.diagonal(dim1=-2, dim2=-1), torch.log1p(diagonal.exp()))
    torch.testing.assert_close(log_det, torch.sigmoid(diagonal).log().sum(-1))
    torch.linalg.cholesky(x @ x.mT)
    pyro = pytest.importorskip("pyro.distributions.transforms")
    torch.testing.assert_close(x, pyro.SoftplusLowerCholeskyTransform()(square), rtol=1e-9, atol=1e-9)


def test_ordered_against_pyro() -> None:
    pyro = pytest.importorskip("pyro.distributions.transforms")
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with_exp = torch.cat([z[:, :1], torch.log(torch.expm1(z[:, 1:].exp()))], -1)  # softplus of it is exp(z)
    torch.testing.assert_close(fb.ToOrdered(4).double()(with_exp)[0], pyro.OrderedTransform()(z))
    simplex = torch.softmax(z, -1)
    peer = pyro.SimplexToOrderedTransform(torch.tensor(0.7, dtype=torch.float64))
    wanted = peer(simplex)
    x, log_det = fb.SimplexToOrdered(3, anchor=0.7).double()(simplex[..., :-1])
    torch.testing.assert_close(x, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det, -(torch.sigmoid(x - 0.7).log() + torch.sigmoid(0.7 - x).log()).sum(-1))


def test_simplex_to_ordered_keeps_small_classes() -> None:
    """Probabilities of 1e-12 in the middle and at the end come back to nine digits."""
    z = torch.tensor([[0.4, 1e-12, 0.6 - 2e-12]], dtype=torch.float64)
    f = fb.SimplexToOrdered(3).double()
    back = f.inverse(f(z)[0])[0]
    assert float((back[0, 2] / z[0, 2] - 1).abs()) < 1e-9
    assert float((back[0, 1] / z[0, 1] - 1).abs()) < 1e-3  # what the spacing of floats at 0.4 allows


# -- distribution functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [0.3, 1.0, 2.5, 30.0, 1e6])
def test_student_t_cdf(df: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    law = fd.StudentT((1,), df=df).double()
    exact = float(law.log_df.exp())  # the float32 start rounds df
    x = torch.tensor([-1e4, -50.0, -3.0, -0.1, 0.0, 1e-6, 0.5, 2.0, 9.0], dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(law.cdf(x), torch.from_numpy(stats.t.cdf(x.numpy(), exact)), rtol=1e-10, atol=1e-300)
    p = torch.tensor([1e-12, 1e-3, 0.2, 0.5, 0.7, 0.999], dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(law.icdf(p), torch.from_numpy(stats.t.ppf(p.numpy(), exact)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [0.3, 4.0, 500.0])
def test_von_mises_quantiles(k: float) -> None:
    law = fd.VonMises((1,), loc=0.5, concentration=k).double()
    x = torch.linspace(-0.3, 1.2, 9, dtype=torch.float64).unsqueeze(-1)
    p = law.cdf(x)
    inner = ((p > 1e-6) & (p < 1 - 1e-6)).squeeze(-1)
    torch.testing.assert_close(law.icdf(p)[inner], x[inner], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("law", [fd.StudentT((1,), df=3.0), fd.VonMises((1,), loc=0.5, concentration=2.0), fd.TruncatedNormal(-1.0, 2.0, (1,), scale=0.7)])
def test_cdf_slopes_are_densities(law: Any) -> None:
    """d cdf / dx is the density, d icdf / dp its inverse, and second derivatives agree with finite differences."""
    law = law.double()
    x = torch.tensor([[-0.9], [-0.2], [0.0], [0.5], [1.4]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(law.cdf(x).sum(), x, create_graph=True)
    torch.testing.assert_close(slope.squeeze(-1), law.log_prob(x).exp(), rtol=1e-8, atol=1e-10)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curve, law.score(x.detach()) * slope.detach(), rtol=1e-6, atol=1e-8)
    p = law.cdf(x).detach().requires_grad_()
    (back,) = torch.autograd.grad(law.icdf(p).sum(), p)
    torch.testing.assert_close(back, 1 / slope.detach(), rtol=1e-6, atol=1e-8)


def test_cdf_bijector_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    gamma = fd.TorchDistribution("Gamma", arguments={"concentration": torch.tensor([2.5]), "rate": torch.tensor([0.5])}, event_rank=1)
    f = fb.CDF(gamma).double()
    assert f.traits.inverse == "iterative" and fb.CDF(fd.StandardNormal(1)).traits.inverse == "closed"
    z = torch.tensor([[0.2], [3.0], [11.0]], dtype=torch.float64)
    x, log_det = f(z)
    torch.testing.assert_close(x, torch.from_numpy(stats.gamma.cdf(z.numpy(), 2.5, scale=2.0)), rtol=1e-8, atol=0)
    torch.testing.assert_close(log_det, torch.from_numpy(stats.gamma.logpdf(z.numpy(), 2.5, scale=2.0)).squeeze(-1), rtol=1e-8, atol=0)
    torch.testing.assert_close(f.inverse(x)[0], z, rtol=1e-8, atol=0)
    with pytest.raises(ConfigError):
        fb.CDF(fd.FullNormal(2))


def test_normal_cdf_limits() -> None:
    """What the docstring says of float32 and float64: where latents can still be told apart, and no value at 0 or 1."""
    for dtype, right, left in ((torch.float32, 5.3, -12.95), (torch.float64, 8.2, -37.5)):
        f = fb.CDF(fd.StandardNormal(1)).to(dtype)
        x, log_det = f(torch.tensor([[-100.0], [100.0]], dtype=dtype))
        assert bool((x > 0).all() and (x < 1).all())
        torch.testing.assert_close(log_det, torch.full((2,), -5000.0 - 0.5 * math.log(2 * math.pi), dtype=dtype))
        z, _ = f.inverse(torch.tensor([[0.0], [1.0]], dtype=dtype))
        assert float(z[0]) == pytest.approx(left, abs=0.1) and float(z[1]) == pytest.approx(right, abs=0.1)


INTERVALS = [(-1.0, 2.0), (-math.inf, -3.0), (4.0, math.inf), (30.0, 30.001), (-200.0, -199.0), (-0.5, 0.5), (-math.inf, math.inf), (-2.0, 50.0)]


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_truncated_normal_against_scipy(low: float, high: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    law = fd.TruncatedNormal(low, high, (1,), loc=0.0, scale=1.0).double()
    p = torch.tensor([0.01, 0.3, 0.5, 0.9], dtype=torch.float64).unsqueeze(-1)
    x = law.icdf(p)
    low, high = float(law._support.low_buffer), float(law._support.high_buffer)
    wanted = torch.from_numpy(stats.truncnorm.ppf(p.numpy(), low, high))
    torch.testing.assert_close(x, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(law.log_prob(x), torch.from_numpy(stats.truncnorm.logpdf(x.detach().numpy(), low, high)).squeeze(-1), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(law.cdf(x), p, rtol=1e-7, atol=1e-7)


def test_truncated_normal_far_in_float32() -> None:
    """A thousand scales out, in float32: the exponential limit, finite samples inside, finite gradients."""
    law = fd.TruncatedNormal(1000.0, math.inf, (1,))
    x = law.rsample((2000,), generator=torch.Generator().manual_seed(0))
    assert bool((x >= 1000.0).all())
    assert float((x - 1000.0).mean().detach()) == pytest.approx(1e-3, rel=0.1)
    torch.testing.assert_close(law.log_prob(torch.tensor([[1000.0]])), torch.tensor([math.log(1000.0)]), rtol=1e-3, atol=0.0)
    gradients = torch.autograd.grad(x.sum() + law.log_prob(x.detach()).sum(), list(law.parameters()))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_shared_activations() -> None:
    """Closed forms; second derivatives at zero, where one by abs would be lost; far ends in float32."""
    z = Z.clone().requires_grad_()
    torch.testing.assert_close(log_sech(z), -torch.cosh(z).log(), rtol=1e-12, atol=1e-14)
    (first,) = torch.autograd.grad(log_sech(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    torch.testing.assert_close(first, -torch.tanh(z), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(second, -(1 - torch.tanh(z) ** 2), rtol=1e-12, atol=1e-14)
    far = torch.tensor([-1e30, 1e30])
    torch.testing.assert_close(log_sech(far), -far.abs())
    torch.testing.assert_close(torch.nn.functional.softplus(softplus_inverse(POSITIVE), threshold=40.0), POSITIVE, rtol=1e-12, atol=0.0)
    assert bool(torch.isfinite(softplus_inverse(torch.tensor([0.0, 1e-38, 1e30]))).all())
    assert float(soft_bounded(torch.tensor(50.0), 3.0)) == pytest.approx(3.0)


def test_second_derivative_of_slopes_at_the_start() -> None:
    """The scale of SneakyReLU is cosh of half the difference of the log-slopes, whose second derivative at zero is 1 / 4, not 0."""
    params = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    value = fu.SneakyReLU()._split(params)[0]
    (first,) = torch.autograd.grad(value, params, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(first[0], params)[0], torch.tensor([0.25, -0.25], dtype=torch.float64))
