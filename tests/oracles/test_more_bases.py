"""Bases of parts, of rejection, of grids and of particles; whitening; flows with random weights: against scipy, peers and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import CDF, Whitening
from flowkit.core.domain.mean_free import MeanFree
from flowkit.core.errors import ConfigError, DataError, ShapeError
from flowkit.core.objective import Batch
from flowkit.distributions import (
    DiagonalNormal,
    GeneralizedNormal,
    MeanFreeNormal,
    Product,
    Quantized,
    Resampled,
    StandardNormal,
    StudentT,
    TruncatedNormal,
    UniformBox,
)
from flowkit.flows import Bayesian
from flowkit.objectives import EvidenceLowerBound
from flowkit.testing.targets import check_target

KS = 2.2  # over sqrt(n): a level of about 1e-4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_double(build: Callable[[], Any]) -> Any:
    """Built in float64, arguments too."""
    torch.set_default_dtype(torch.float64)
    try:
        return build()
    finally:
        torch.set_default_dtype(torch.float32)


def line(low: float, high: float, count: int = 41) -> Tensor:
    return torch.linspace(low, high, count, dtype=torch.float64).unsqueeze(-1)


def close(got: Tensor, wanted: Any, tolerance: float) -> None:
    wanted = torch.as_tensor(wanted, dtype=torch.float64).detach()
    error = float(((got.detach().double() - wanted).abs() / wanted.abs().clamp(min=1.0)).max())
    assert error <= tolerance, f"off by {error:.2e}"


def follows(drawn: Tensor, cdf: Callable[[np.ndarray], Any]) -> None:
    """Kolmogorov's distance of one-dimensional draws to a distribution function."""
    distance = stats.kstest(drawn.flatten().double().numpy(), cdf).statistic
    assert distance <= KS / drawn.numel() ** 0.5, f"Kolmogorov distance {distance:.4f}"


# -- product -----------------------------------------------------------------------------------------------------


def test_uniform_gaussian_of_normflows() -> None:
    normflows = pytest.importorskip("normflows")
    scale = torch.tensor([2.0, 0.5, 3.0, 1.5])
    theirs = normflows.distributions.base.UniformGaussian(4, [0, 1], scale)
    ours = Product([UniformBox(-scale[:2] / 2, scale[:2] / 2), DiagonalNormal((2,), scale=scale[2:])])
    torch.manual_seed(0)
    x = theirs.sample(500)
    close(ours.log_prob(x), theirs.log_prob(x), 1e-6)
    drawn = ours.sample(4000, generator=generator())
    for i, law in enumerate((stats.uniform(-1, 2), stats.uniform(-0.25, 0.5), stats.norm(0, 3), stats.norm(0, 1.5))):
        follows(drawn[:, i], law.cdf)


def test_product_is_the_sum_of_its_parts() -> None:
    parts = [StudentT((2,), df=3.0).double(), UniformBox(0.0, 2.0, 1).double(), StandardNormal((1,)).double()]
    joint = Product(parts)
    x = joint.sample(50, generator=generator())
    pieces = x.split([2, 1, 1], -1)
    close(joint.log_prob(x), sum(part.log_prob(piece).detach() for part, piece in zip(parts, pieces, strict=True)), 1e-14)
    outside = x.clone()
    outside[:, 2] = 3.0
    assert bool((joint.log_prob(outside) == -torch.inf).all()) and not joint.domain.contains(outside).any()
    p = joint.cdf(x)
    close(joint.icdf(p), x, 1e-8)
    assert CDF(joint).traits.inverse == "iterative" and joint.iterative_icdf
    assert not hasattr(Product([fk.distributions.GaussianMixture(1, 2)]), "cdf")
    images = Product([StandardNormal((1, 2, 2)), DiagonalNormal((3, 2, 2))])
    assert images.event_shape == (4, 2, 2) and images.sample(5).shape == (5, 4, 2, 2)


def test_product_shares_one_context() -> None:
    flow = fk.flows.RealNVP(2, 3, layers=2, hidden=(8,))
    joint = Product([flow, DiagonalNormal((1,), context_features=3), StandardNormal((2,))])
    context = torch.randn(4, 3, generator=generator())
    x = joint.sample(6, context, generator(1))
    assert x.shape == (6, 4, 5) and joint.log_prob(x, context).shape == (6, 4)
    close(joint.score(x, context)[..., 3:], -x[..., 3:], 1e-6)
    with pytest.raises(ShapeError):
        Product([DiagonalNormal((1,), context_features=3), DiagonalNormal((1,), context_features=2)])
    with pytest.raises(ConfigError, match="vectors"):
        Product([UniformBox(0.0, 1.0, (1, 2, 2)), StandardNormal((1, 2, 2))])


# -- powers and truncation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
def test_generalized_normal_of_scipy(beta: float) -> None:
    base, law = in_double(lambda: GeneralizedNormal((1,), beta=beta, loc=0.25, scale=1.5)), stats.gennorm(beta, 0.25, 1.5)
    x = line(-4, 4)
    close(base.log_prob(x), law.logpdf(x[:, 0].numpy()), 1e-12)
    assert float((base.cdf(x)[:, 0].detach() / torch.as_tensor(law.cdf(x[:, 0].numpy())) - 1).abs().max()) < 1e-12  # relative: left tail too
    p = torch.tensor([[1e-12], [1e-4], [0.3], [0.5], [0.9], [0.9999]], dtype=torch.float64)
    close(base.icdf(p), law.ppf(p.numpy()), 1e-8)
    follows(base.sample(4000, generator=generator()), law.cdf)


def test_generalized_normal_of_zuko() -> None:
    zuko = pytest.importorskip("zuko")
    x, theirs = line(-3, 3), zuko.distributions.GeneralizedNormal(torch.tensor(3.0).double())
    close(in_double(lambda: GeneralizedNormal((1,), beta=3.0)).log_prob(x), theirs.log_prob(x)[:, 0], 1e-12)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (20.0, 21.0), (-np.inf, -9.0), (30.0, np.inf)])
def test_truncated_normal_of_scipy(low: float, high: float) -> None:
    base, law = TruncatedNormal(low, high, (1,)).double(), stats.truncnorm(low, high)
    p = torch.tensor([[0.01], [0.3], [0.5], [0.9], [0.999]], dtype=torch.float64)
    x = torch.as_tensor(law.ppf(p.numpy()))
    close(base.icdf(p), x, 1e-9)
    close(base.cdf(x), p, 1e-9)
    close(base.log_prob(x), law.logpdf(x.numpy())[:, 0], 1e-9)


# -- resampling --------------------------------------------------------------------------------------------------


def bent(base: Any, tries: int, points: int = 4096) -> Resampled:
    """A resampled base whose net is not the constant of its start."""
    made, draws = Resampled(base, tries=tries, hidden=(16,), points=points).double(), generator(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(1.5 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
        made.net.last.bias.copy_(-made.net.last(made.net.layers(torch.zeros(base.event_shape[0], dtype=torch.float64))) - 1.0)
    return made


def test_resampled_starts_as_its_base() -> None:
    x = torch.randn(20, 3, generator=generator(), dtype=torch.float64)
    close(Resampled(StandardNormal((3,)), hidden=(8,), points=64).double().log_prob(x), StandardNormal((3,)).log_prob(x), 1e-12)


@pytest.mark.parametrize("tries", [2, 5, 100])
def test_resampled_draws_follow_its_density(tries: int) -> None:
    """One dimension: the density integrates to one, and truncated rejection gives it, for few tries and many."""
    law = bent(StandardNormal((1,)), tries)
    grid = line(-9, 9, 20001)
    with torch.no_grad():
        density = law.log_prob(grid).exp()
        assert float((density / StandardNormal((1,)).log_prob(grid).exp() - 1).abs().max()) > 0.1  # it is not the base
    below = torch.cumulative_trapezoid(density, grid[:, 0]).numpy()
    assert abs(below[-1] - 1) < 2e-4
    follows(law.sample(6000, generator=generator(2)), lambda x: np.interp(x, grid[1:, 0].numpy(), below))


def test_resampled_normaliser() -> None:
    """Z against a product of Gauss rules in the plane; it does not change between calls, and follows every change of a parameter."""
    law = bent(DiagonalNormal((2,), scale=0.7), 20)
    with torch.no_grad():
        law.base.mean.zero_()
        law.base.log_scale.zero_()
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        at, weight = torch.cartesian_prod(*[torch.as_tensor(nodes)] * 2), torch.as_tensor(np.outer(weights, weights).ravel() / (2 * np.pi))
        wanted = float((law.net(at).sigmoid()[:, 0] * weight).sum())
        assert abs(float(law.acceptance()) / wanted - 1) < 1e-3
        x = law.sample(10, generator=generator())
        kept = law.log_prob(x)
    close(law.log_prob(x), kept, 1e-14)  # with a graph nothing is kept
    law.net.layers[0].bias.data += 1.0  # a write that torch's version counter does not see
    with torch.no_grad():
        moved = law.log_prob(x)
    assert float((moved - kept).abs().max()) > 1e-3
    close(law.log_prob(x), moved, 1e-14)


def test_resampled_never_divides_by_a_rejection_of_everything() -> None:
    law = Resampled(StandardNormal((1,)), tries=10, hidden=(4,), points=64)
    for bias in (-200.0, 200.0):
        torch.nn.init.constant_(law.net.last.bias, bias)
        value = law.log_prob(torch.zeros(3, 1))
        close(value, StandardNormal((1,)).log_prob(torch.zeros(3, 1)), 1e-5)
        gradients = torch.autograd.grad(value.sum(), list(law.parameters()))
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


# -- grids -------------------------------------------------------------------------------------------------------


def test_quantized_normal_in_both_tails() -> None:
    levels, mean, scale = 256, 100.0, 2.5
    law = in_double(lambda: Quantized(DiagonalNormal((1,), loc=mean, scale=scale), levels))
    k = np.arange(levels)
    low, high = (k - 0.5 - mean) / scale, (k + 0.5 - mean) / scale
    left, right = np.where(low > 0, -high, low), np.where(low > 0, -low, high)  # of equal probability, in the left tail
    wanted = special.log_ndtr(right) + np.log(-np.expm1(special.log_ndtr(left) - special.log_ndtr(right)))
    wanted[0], wanted[-1] = special.log_ndtr(high[0]), special.log_ndtr(-low[-1])
    close(law.log_prob(torch.as_tensor(k).double().unsqueeze(-1)), wanted, 1e-10)
    single = Quantized(DiagonalNormal((1,), loc=mean, scale=scale), levels)
    x = torch.as_tensor(k).float().unsqueeze(-1).requires_grad_()
    value = single.log_prob(x)
    close(value, wanted, 1e-5)
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(value.sum(), [x, *single.parameters()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantized_of_any_law(dtype: torch.dtype) -> None:
    """A law with a cdf alone: no cancellation where it is near one."""
    for base, other in ((StudentT((1,), df=3.0, loc=2.0), stats.t(3, 2.0)), (GeneralizedNormal((1,), beta=1.0, loc=2.0), stats.laplace(2.0))):
        law = Quantized(base, 60).to(dtype)
        k = torch.arange(60, dtype=dtype).unsqueeze(-1)
        low, high = k[:, 0].numpy() - 0.5, k[:, 0].numpy() + 0.5
        low[0], high[-1] = -np.inf, np.inf
        low, high = low.astype(float), high.astype(float)
        wanted = np.log(np.where(low > 2, other.sf(low) - other.sf(high), other.cdf(high) - other.cdf(low)))
        value = law.log_prob(k).detach()
        close(value, wanted, 1e-4 if dtype == torch.float32 else 1e-6)
        assert abs(float(value.exp().sum()) - 1) < 1e-4


def test_quantized_draws() -> None:
    law = Quantized(DiagonalNormal((1,), loc=1.3, scale=1.7), 5)
    grid = torch.arange(5.0).unsqueeze(-1)
    drawn = law.sample(4000, generator=generator())[:, 0]
    counts = torch.bincount(drawn.long(), minlength=5).numpy()
    assert stats.chisquare(counts, 4000 * law.log_prob(grid).detach().double().softmax(0).numpy()).pvalue > 1e-4
    assert bool((law.log_prob(torch.tensor([[0.5], [-1.0], [5.0]])) == -torch.inf).all())


# -- particles ---------------------------------------------------------------------------------------------------


def test_mean_free_normal() -> None:
    """In an orthonormal basis of the subspace it is a standard normal of (N - 1) d coordinates; draws have the projector as covariance."""
    law = MeanFreeNormal(4, 3).double()
    x = law.sample(20000, generator=generator())
    assert float(x.mean(1).abs().max()) < 1e-14
    basis = MeanFree(4, 3).tangent_basis(x[0])
    close(basis.mT @ basis, torch.eye(9), 1e-14)
    inner = x.flatten(1) @ basis
    close(inner @ basis.mT, x.flatten(1), 1e-13)
    close(law.log_prob(x), StandardNormal((9,)).log_prob(inner), 1e-13)
    close(torch.cov(x.flatten(1).mT), basis @ basis.mT, 0.05)
    assert bool((law.log_prob(x + 0.1) == -torch.inf).all())
    assert bool(torch.isfinite(law.float().log_prob(100 * x.float())).all())  # rounding is no way off the subspace
    check_target(MeanFreeNormal(4, 3), only="invariances_hold")


# -- whitening ---------------------------------------------------------------------------------------------------


def skewed(count: int = 300) -> Tensor:
    mix = torch.tensor([[2.0, 0.5, 0.0], [0.0, 0.3, 1.0], [0.0, 0.0, 0.05]], dtype=torch.float64)
    return torch.randn(count, 3, generator=generator(), dtype=torch.float64) @ mix + torch.tensor([5.0, -3.0, 100.0], dtype=torch.float64)


@pytest.mark.parametrize("inverse", [True, False])
def test_whitening_whitens(inverse: bool) -> None:
    x, made = skewed(), Whitening(3).double()
    z = made.initialize(x, inverse=inverse)
    close(torch.cov(z.mT, correction=0), torch.eye(3), 1e-9)
    close(z.mean(0), torch.zeros(3), 1e-9)
    assert bool(made.fitted)
    again = made.initialize(x + 7.0, inverse=inverse)  # fitted once only
    close(again.mean(0), (made.inverse(x + 7.0) if inverse else made(x + 7.0))[0].mean(0), 1e-12)


def test_whitening_is_principal_components() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x, made = skewed(), Whitening(3).double()
    made.set_from(x.split(37))
    pca = decomposition.PCA(whiten=True).fit(x.numpy())
    factor = (299 / 300) ** 0.5  # sklearn divides by N - 1
    close(made.inverse(x)[0].abs() * factor, np.abs(pca.transform(x.numpy())), 1e-8)
    close(made(torch.zeros(3, dtype=torch.float64))[1], 0.5 * np.linalg.slogdet(np.cov(x.numpy().T, bias=True))[1], 1e-9)


def test_whitening_of_flat_data() -> None:
    made = Whitening(3, floor=1e-4).double()
    made.set_from(skewed()[:, :1].expand(300, 3))
    scales = torch.linalg.svdvals(made.matrix)
    close(scales[1:] / scales[0], [0.01, 0.01], 1e-9)
    for bad in (torch.ones(10, 3), torch.zeros(0, 3), torch.full((4, 3), torch.nan)):
        with pytest.raises(DataError):
            Whitening(3).set_from(bad)


# -- random weights ----------------------------------------------------------------------------------------------


def test_bayesian_divergence_and_draws() -> None:
    model = Bayesian(fk.flows.RealNVP(2, layers=2, hidden=(8,)), scale=0.3, prior_scale=2.0).double()
    means = [p for p in model.flow.parameters() if p.requires_grad]
    normal = torch.distributions.Normal
    wanted = sum(torch.distributions.kl_divergence(normal(m, s.exp()), normal(0.0, 2.0)).sum() for m, s in zip(means, model.log_scales, strict=True))
    close(model.kl(), wanted, 1e-12)
    x = torch.randn(7, 2, generator=generator(), dtype=torch.float64)
    close(model.log_prob(x), model.flow.log_prob(x), 0.0)
    drawn = model.draw(generator(5))
    close(model.log_prob(x, generator=generator(5), weight_draws=1), drawn.log_prob(x), 1e-12)
    two, shared = generator(5), generator(5)
    pair = torch.stack([model.draw(two).log_prob(x) for _ in range(2)])
    close(model.log_prob(x, generator=shared, weight_draws=2), pair.logsumexp(0) - math.log(2), 1e-12)
    assert not any(p.requires_grad for p in drawn.parameters()) and drawn.sample(3).shape == (3, 2)
    weights = torch.stack([model.draw_weights(generator(i))[model._names[0]].detach().flatten()[0] for i in range(400)])
    assert abs(float(weights.std()) / 0.3 - 1) < 0.2


def test_bayesian_finds_the_conjugate_posterior() -> None:
    """x ~ N(w, 1), w ~ N(0, 2^2): the posterior is N(4 sum(x) / (4 N + 1), 4 / (4 N + 1)), and the bound is then the evidence."""
    x = 1.5 + torch.randn(12, 1, generator=generator(), dtype=torch.float64)
    shift = fk.bijectors.Affine(shape=(1,))
    model = Bayesian(fk.Flow(StandardNormal((1,)), shift), scale=1.0, prior_scale=2.0).double()
    for name, parameter in shift.named_parameters():
        parameter.requires_grad_("scale" not in name)
    model = Bayesian(model.flow, scale=1.0, prior_scale=2.0).double()
    assert len(model.log_scales) == 1
    objective, optimiser = EvidenceLowerBound(12, draws=4), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    draws = generator(1)
    for step in range(400):
        if step == 250:
            optimiser.param_groups[0]["lr"] = 0.005
        optimiser.zero_grad()
        objective.loss(model, Batch(x), draws).value.backward()
        optimiser.step()
    close(model._means()[0], 4 * x.sum() / 49, 0.05)
    close(model.log_scales[0].exp(), (4 / 49) ** 0.5, 0.05)
    with torch.no_grad():
        bound = -12 * torch.stack([objective.loss(model, Batch(x), draws).value for _ in range(300)]).mean()
        evidence = torch.distributions.MultivariateNormal(torch.zeros(12).double(), torch.eye(12) + 4 * torch.ones(12, 12).double()).log_prob(x[:, 0])
    assert abs(float(bound - evidence)) < 0.15


def test_bayesian_in_the_training_loop() -> None:
    x = 2.0 + torch.randn(64, 2, generator=generator())
    model = Bayesian(fk.flows.RealNVP(2, layers=2, hidden=(8,), standardize=True), scale=0.05)
    fk.fit(model, x, objective=EvidenceLowerBound(64), max_steps=20, seed=0, device="cpu", batch_size=32)
    assert bool(model.flow.standardizer.fitted)
    assert float(torch.stack([s.detach().sub(math.log(0.05)).abs().max() for s in model.log_scales]).max()) > 0
    with pytest.raises(ConfigError, match="Bayesian"):
        EvidenceLowerBound(64).loss(model.flow, Batch(x))
