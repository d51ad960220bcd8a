"""Metrics against closed forms and other implementations."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch

import flowkit as fk
from flowkit import evaluation
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.data import Digits
from flowkit.evaluation import Estimate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def gaussian(dim: int = 2, loc: float = 0.0, scale: float = 1.0) -> fk.Flow:
    return fk.Flow(fk.distributions.StandardNormal((dim,)), fk.bijectors.Affine((dim,), loc=loc, scale=scale))


def conditional() -> fk.Flow:
    """x ~ N(context, 1)."""
    affine = fk.bijectors.Affine((1,), context_features=1)
    with torch.no_grad():
        affine.net.weight.copy_(torch.tensor([[1.0], [0.0]]))
    return fk.Flow(fk.distributions.StandardNormal((1,)), affine)


# -- estimates --------------------------------------------------------------------------------------------------


def test_an_estimate_is_a_float() -> None:
    value = Estimate(1.5, 0.25, 0.5)
    assert value == 1.5
    assert value + 1 == 2.5
    assert (value.mean, value.standard_error, value.p_value) == (1.5, 0.25, 0.5)
    assert json.dumps({"nll": value}) == '{"nll": 1.5}'
    assert repr(value) == "1.5 ± 0.25"
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert (other, other.standard_error, other.p_value) == (1.5, 0.25, 0.5)


# -- likelihood -------------------------------------------------------------------------------------------------


def test_nll_of_a_gaussian() -> None:
    x = 1 + 2 * normal(20_000, 2)
    found = evaluation.nll(gaussian(loc=1.0, scale=2.0), x, batch_size=1000)
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(2))
    assert abs(found - entropy) < 4 * found.standard_error
    assert found.standard_error == pytest.approx(1 / math.sqrt(20_000), rel=0.05)  # the NLL of one event has variance D/2


def test_nll_of_any_distribution_and_with_context() -> None:
    x = normal(100, 2)
    base = fk.distributions.StandardNormal((2,))
    assert evaluation.nll(base, x) == pytest.approx(-base.log_prob(x).mean().item(), rel=1e-6)
    context = normal(100, 1, seed=1)
    flow = conditional()
    assert evaluation.nll(flow, x[:, :1], context, batch_size=7) == pytest.approx(-flow.log_prob(x[:, :1], context).mean().item(), rel=1e-6)


def test_nll_outside_the_support_is_infinite() -> None:
    box = fk.distributions.StandardNormal((1,))
    from flowkit.core.domain.box import Box

    flow = fk.Flow(box, fk.bijectors.Affine((1,)), Box(0.0, 1.0, 1))
    found = evaluation.nll(flow, torch.tensor([[0.5], [2.0]]))
    assert math.isinf(found)
    assert math.isnan(found.standard_error)


def test_nll_restores_each_modules_mode() -> None:
    flow = gaussian()
    flow.train()
    flow.bijector.eval()
    evaluation.nll(flow, normal(4, 2))
    assert flow.training
    assert not flow.bijector.training


def test_bits_per_dim_of_the_uniform_density() -> None:
    torch.testing.assert_close(evaluation.bits_per_dim(torch.zeros(3), 64, levels=17), torch.full((3,), math.log2(17)))


def test_bits_per_dim_is_the_entropy_of_the_pixels() -> None:
    # independent pixels with known frequencies: a density constant on each cell gives the discrete code length exactly
    x = Digits(form="vector").train.x
    cells = (x * 17).floor().long()
    frequencies = torch.bincount(cells.reshape(-1), minlength=17).double() / cells.numel()
    log_prob = (frequencies[cells] * 17).log().sum(-1)
    entropy = -(frequencies[frequencies > 0] * frequencies[frequencies > 0].log2()).sum()
    torch.testing.assert_close(evaluation.bits_per_dim(log_prob, 64, levels=17).mean(), entropy)


def test_bits_per_dim_at_the_scale_of_the_integers_agrees() -> None:
    log_prob = normal(5)
    scaled = log_prob - 64 * math.log(256)  # the density of 256 x
    torch.testing.assert_close(evaluation.bits_per_dim(scaled, 64, levels=1), evaluation.bits_per_dim(log_prob, 64))
    with pytest.raises(ConfigError, match="levels"):
        evaluation.bits_per_dim(log_prob, 64, levels=0)


# -- distances --------------------------------------------------------------------------------------------------


def test_mmd_of_two_gaussians() -> None:
    shift, width, dim = 0.5, 1.5, 2
    x, y = normal(3000, dim), shift + normal(3000, dim, seed=1)
    found = evaluation.mmd(x, y, bandwidth=width, permutations=50, generator=seeded())
    # E k = (h^2 / (h^2 + 2))^(D/2) exp(-|difference of means|^2 / (2 (h^2 + 2)))
    same = (width**2 / (width**2 + 2)) ** (dim / 2)
    exact = 2 * same * (1 - math.exp(-dim * shift**2 / (2 * (width**2 + 2))))
    assert found == pytest.approx(exact, abs=0.02)
    assert found.p_value == pytest.approx(1 / 51)


@pytest.mark.parametrize("metric", ["mmd", "energy_distance"])
def test_two_sample_tests_under_the_null(metric: str) -> None:
    found = [getattr(evaluation, metric)(normal(200, 2, seed=2 * k), normal(150, 2, seed=2 * k + 1), generator=seeded(k)) for k in range(20)]
    scores = np.array([value / value.standard_error for value in found])
    assert abs(scores.mean()) < 4 / math.sqrt(20)  # unbiased
    assert np.mean([value.p_value < 0.05 for value in found]) <= 0.25


def test_mmd_by_hand() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0], [3.0]])

    def k(a: float, b: float) -> float:
        return math.exp(-((a - b) ** 2) / 2)

    cross = sum(k(a, b) for a in (0, 1) for b in (0, 2, 3)) / 6
    exact = k(0, 1) + (k(0, 2) + k(0, 3) + k(2, 3)) / 3 - 2 * cross
    assert evaluation.mmd(x, y, bandwidth=1.0, generator=seeded()) == pytest.approx(exact)


def test_energy_distance_of_points_on_a_line() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    exact = 2 * (0 + 2 + 3 + 1 + 1 + 2) / 6 - 1 - (2 + 3 + 1) / 3
    assert evaluation.energy_distance(x, y, generator=seeded()) == pytest.approx(exact)


def test_metrics_draw_from_their_generator_only() -> None:
    x, y = normal(60, 2), normal(60, 2, seed=1)
    before = torch.get_rng_state()
    for metric in (evaluation.mmd, evaluation.energy_distance, evaluation.sliced_wasserstein):
        first, second = (metric(x, y, generator=seeded(3)) for _ in range(2))
        assert (first, first.standard_error) == (second, second.standard_error)
    assert evaluation.mmd(x, y, max_points=20, permutations=3, generator=seeded()) == evaluation.mmd(x, y, max_points=20, permutations=3, generator=seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_wasserstein_of_a_translation() -> None:
    x = normal(200, 3)
    shift = torch.tensor([1.0, -2.0, 2.0])
    assert evaluation.wasserstein(x, x + shift) == pytest.approx(3.0, rel=1e-5)
    assert evaluation.wasserstein(x, x[torch.randperm(200, generator=seeded())], order=1.0) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ShapeError, match="200 and 100"):
        evaluation.wasserstein(x, x[:100])


def test_sliced_wasserstein_of_a_translation() -> None:
    x = normal(300, 3)
    found = evaluation.sliced_wasserstein(x, x + torch.tensor([1.0, -2.0, 2.0]), projections=4000, generator=seeded())
    assert abs(found - 3 / math.sqrt(3)) < 4 * found.standard_error


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_sliced_wasserstein_on_a_line_is_exact(order: float) -> None:
    from scipy.stats import wasserstein_distance

    x, y = normal(70, 1), 0.5 + 2 * normal(70, 1, seed=1)
    assert evaluation.sliced_wasserstein(x, y, order=order) == pytest.approx(evaluation.wasserstein(x, y, order=order), rel=1e-5)
    uneven = evaluation.sliced_wasserstein(x, y[:33], order=1.0)
    assert uneven == pytest.approx(wasserstein_distance(x.flatten().numpy(), y[:33].flatten().numpy()), rel=1e-5)


def test_metrics_refuse_what_they_cannot_compare() -> None:
    with pytest.raises(ShapeError, match="one event shape"):
        evaluation.mmd(normal(5, 2), normal(5, 3))
    with pytest.raises(NonFiniteError, match="finite"):
        evaluation.energy_distance(normal(5, 2), torch.full((5, 2), math.nan))
    with pytest.raises(ConfigError, match="order"):
        evaluation.sliced_wasserstein(normal(5, 2), normal(5, 2), order=0.5)
    with pytest.raises(ConfigError, match="bandwidth"):
        evaluation.mmd(torch.zeros(5, 2), torch.zeros(5, 2))


# -- classifier, weights ----------------------------------------------------------------------------------------


def test_c2st_of_two_gaussians() -> None:
    # the best classifier of N(0, 1) and N(m, 1) is right with probability Phi(m / 2)
    x, y = normal(1000, 1), 2 + normal(600, 1, seed=1)
    found = evaluation.c2st(x, y, classifier="logistic", generator=seeded())
    assert abs(found - 0.8413) < 4 * found.standard_error
    assert found.p_value is not None
    assert found.p_value < 1e-6


@pytest.mark.parametrize("classifier", ["mlp", "forest", "logistic"])
def test_c2st_of_one_distribution(classifier: str) -> None:
    found = evaluation.c2st(normal(150, 2), normal(150, 2, seed=1), classifier=classifier, folds=3, generator=seeded())  # type: ignore[arg-type]
    assert abs(found - 0.5) < 4 * found.standard_error
    with pytest.raises(ConfigError, match="classifier"):
        evaluation.c2st(normal(9, 2), normal(9, 2), classifier="tree")  # type: ignore[arg-type]


def test_ess() -> None:
    assert evaluation.ess(torch.zeros(100)) == pytest.approx(100)
    assert evaluation.ess(torch.tensor([1000.0, -torch.inf, -1000.0])) == pytest.approx(1)
    assert evaluation.ess(torch.full((4,), -torch.inf)) == 0
    weights = normal(3, 50).exp()
    torch.testing.assert_close(evaluation.ess(weights.log()), weights.sum(-1) ** 2 / (weights**2).sum(-1))
    torch.testing.assert_close(evaluation.ess(weights.log() + 500), evaluation.ess(weights.log()), rtol=1e-3, atol=0)
    assert evaluation.ess(weights.log(), dim=0).shape == (50,)


# -- calibration ------------------------------------------------------------------------------------------------


def test_latent_normality_of_the_true_flow_agrees_with_scipy() -> None:
    from scipy.stats import kstest

    flow, x = gaussian(3, loc=1.0, scale=2.0), 1 + 2 * normal(500, 3)
    check = evaluation.latent_normality(flow, x)
    for i in range(3):
        reference = kstest(((x[:, i] - 1) / 2).double().numpy(), "norm")
        assert check.statistic[i].item() == pytest.approx(reference.statistic, abs=1e-6)
        assert check.p_value[i].item() == pytest.approx(reference.pvalue, abs=0.01)
    assert check.p_value.min() > 0.001
    assert (check.latent_quantiles - check.normal_quantiles[:, None]).abs()[10:-10].max() < 0.3
    assert check.events == 500


def test_latent_normality_sees_a_wrong_scale() -> None:
    check = evaluation.latent_normality(gaussian(2), normal(500, 2) * torch.tensor([1.0, 1.5]))
    assert check.p_value[0] > 0.001
    assert check.p_value[1] < 1e-3
    with pytest.raises(ConfigError, match="standard normal base"):
        evaluation.latent_normality(fk.distributions.StandardNormal((2,)), normal(9, 2))  # type: ignore[arg-type]


def test_coverage_of_the_true_flow() -> None:
    check = evaluation.coverage(gaussian(2), normal(1000, 2), samples=4000, generator=seeded())
    assert ((check.observed - check.levels).abs() < 4 * check.standard_error + 1e-9).all()
    assert check.p_value > 0.001


@pytest.mark.parametrize(("scale", "sign"), [(2.0, 1), (0.5, -1)])
def test_coverage_of_a_flow_too_wide_and_too_narrow(scale: float, sign: int) -> None:
    check = evaluation.coverage(gaussian(2, scale=scale), normal(1000, 2), samples=2000, batch_size=300, generator=seeded())
    # |x|^2 / 2 is exponential, so the region of probability a holds 1 - (1 - a)^(scale^2) of the data
    exact = 1 - (1 - check.levels) ** (scale**2)
    assert (check.observed - exact).abs().max() < 0.06
    assert (sign * (check.observed - check.levels)[20:80] > 0).all()
    assert check.p_value < 1e-6


def test_coverage_of_a_conditional_flow() -> None:
    context = 5 * normal(400, 1, seed=1)
    flow = conditional()
    assert evaluation.coverage(flow, context + normal(400, 1), context, samples=200, generator=seeded()).p_value > 0.001
    assert evaluation.coverage(flow, context + 2 * normal(400, 1), context, samples=200, generator=seeded()).p_value < 1e-6
    fixed = evaluation.coverage(flow, 3 + normal(400, 1), torch.full((1,), 3.0), samples=2000, generator=seeded())
    assert fixed.p_value > 0.001
