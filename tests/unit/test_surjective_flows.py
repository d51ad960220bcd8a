"""Surjections and stochastic layers: exp(log_prob) is an unbiased estimate of the density, or the density itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.bijectors import Affine, Chain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.transform import Transform
from flowkit.distributions import DiagonalNormal, StandardNormal, UniformBox
from flowkit.surjections import (
    Absolute,
    Annealing,
    Hamiltonian,
    Langevin,
    MaxPool,
    Metropolis,
    Slice,
    Sort,
    StochasticPermutation,
    SurjectiveChain,
    UniformDequantization,
    VariationalDequantization,
    VariationalStep,
    Wrap,
)
from flowkit.testing._case import perturb

DRAWS = 40_000


def normal(loc: float | list[float], scale: float | list[float], features: int) -> DiagonalNormal:
    return DiagonalNormal((features,), loc=torch.tensor(loc), scale=torch.tensor(scale)).double()


def estimate(flow: fk.Flow, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard error of exp(log_prob) over draws, for events (N, *event)."""
    with torch.no_grad():
        many = flow.log_prob(x.expand(DRAWS, *x.shape), generator=torch.Generator().manual_seed(0)).exp()
    return many.mean(0), many.std(0) / DRAWS**0.5


def agrees(flow: fk.Flow, x: Tensor, density: Tensor) -> None:
    mean, error = estimate(flow, x)
    assert bool(((mean - density).abs() <= 4 * error + 1e-10).all()), f"{mean} against {density} +- {error}"


def flow_of(base: fk.distributions.DiagonalNormal | StandardNormal, surjection: Transform) -> fk.Flow:
    perturb(surjection)
    return fk.Flow(base, surjection.double())  # type: ignore[arg-type]


def density_of(base: DiagonalNormal, *points: Tensor) -> Tensor:
    return torch.stack([base.log_prob(point).exp() for point in points]).sum(0).detach()


def test_absolute() -> None:
    base, x = normal(0.5, 0.8, 1), torch.tensor([[0.2], [1.0]], dtype=torch.float64)
    flow = flow_of(base, Absolute(1))
    assert flow.density == "lower_bound"
    agrees(flow, x, density_of(base, x, -x))
    assert bool((flow.log_prob(-x) == -torch.inf).all())


def test_absolute_for_inference_is_exact() -> None:
    surjection = Absolute(1)
    with torch.no_grad():
        surjection.logit.fill_(1.0)
    base = normal(2.0, 0.5, 1)
    flow = fk.Flow(base, ~surjection.double())
    assert flow.density == "exact"
    x = torch.tensor([[1.5], [-1.5]], dtype=torch.float64)
    chance = torch.tensor([1.0, -1.0], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(flow.log_prob(x).exp(), base.log_prob(x.abs()).exp() * chance)


def test_wrap_is_the_wrapped_normal() -> None:
    base, x = normal(0.5, 0.8, 1), torch.tensor([[0.2], [0.9]], dtype=torch.float64)
    flow = flow_of(base, Wrap(1, 0.0, 1.0))
    agrees(flow, x, density_of(base, *(x + k for k in range(-8, 9))))
    assert bool((flow.sample(1000) >= 0).all())


def test_sort() -> None:
    base = normal([0.0, 1.0, -1.0], [0.5, 1.0, 1.5], 3)
    x = torch.tensor([[-0.5, 0.1, 0.9]], dtype=torch.float64)
    orders = [x[:, list(order)] for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))]
    agrees(flow_of(base, Sort(3)), x, density_of(base, *orders))
    exchangeable = flow_of(normal(0.0, 1.0, 3), ~Sort(3))
    assert exchangeable.log_prob(x[:, [2, 0, 1]]).item() == exchangeable.log_prob(x).item()


def test_stochastic_permutation() -> None:
    base = normal([0.0, 1.0], [0.5, 1.0], 2)
    x = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    agrees(flow_of(base, StochasticPermutation(2)), x, density_of(base, x, x.flip(-1)) / 2)


def test_slice_is_a_marginal() -> None:
    base = normal([0.0, 0.3, -0.3], 0.5, 3)  # narrower than what the inverse draws, so weights have a variance
    torch.manual_seed(0)
    x = torch.tensor([[0.4], [-0.3]], dtype=torch.float64)
    agrees(flow_of(base, Slice(3, 1, hidden=(8,))), x, density_of(normal(0.0, 0.5, 1), x))


@pytest.mark.parametrize("surjection", [~Slice(2, 1, hidden=(8,)), ~Sort(2)], ids=["slice", "sort"])
def test_inference_forms_have_mass_one(surjection: Transform) -> None:
    features = 1 if surjection.in_shape == (1,) else 2
    flow = flow_of(normal(0.3, 0.8, features), surjection)
    assert flow.density == "exact"
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    mass = float(flow.log_prob(grid).exp().sum().detach()) * 0.04**2
    # the latent of ~Sort is ordered: only the half of the base's mass that is ordered can be reached
    assert mass == pytest.approx(1.0 if features == 1 else 0.5, abs=2e-3)


def test_max_pool_has_mass_one() -> None:
    flow = flow_of(StandardNormal((1, 1, 1)).double(), ~MaxPool((1, 2, 2)))
    proposal = StandardNormal((1, 2, 2)).double()
    x = 2.5 * proposal.sample(200_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight = (flow.log_prob(x) - (proposal.log_prob(x / 2.5) - 4 * math.log(2.5))).exp()
    assert float(weight.mean()) == pytest.approx(1.0, abs=4 * float(weight.std()) / len(weight) ** 0.5)


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_dequantization_has_mass_one_on_the_grid(kind: str) -> None:
    levels = 4
    onto = Chain([Affine((1,), scale=0.7)]) >> fk.bijectors.ToBox(0.0, float(levels), (1,))
    spline = fk.univariates.RationalQuadraticSpline(4, (0.0, 1.0), ends="bounded")  # its density is bounded below, so weights have a variance
    noise = fk.Flow(UniformBox(0.0, 1.0, 1), fk.bijectors.Elementwise((1,), spline, context_features=1, hidden=(8,)))
    last = UniformDequantization(levels, (1,)) if kind == "uniform" else VariationalDequantization(levels, noise)
    flow = flow_of(StandardNormal((1,)).double(), onto >> last)
    x = torch.arange(levels, dtype=torch.float64).unsqueeze(-1)
    mean, error = estimate(flow, x)
    assert float(mean.sum()) == pytest.approx(1.0, abs=4 * float(error.sum()))
    assert float(flow.log_prob(torch.tensor([0.5], dtype=torch.float64))) == -torch.inf
    samples = flow.sample(5000, generator=torch.Generator().manual_seed(1))
    share = torch.bincount(samples.flatten().long(), minlength=levels) / 5000
    torch.testing.assert_close(share.double(), mean, atol=0.03, rtol=0)


def test_variational_step_is_the_elbo() -> None:
    """x = z + noise of scale 1/2 with z standard normal: p(x) = N(0, 5/4), the posterior N(4x/5, 1/5)."""
    decoder, encoder = DiagonalNormal((1,), scale=0.5, context_features=1), DiagonalNormal((1,), scale=0.2**0.5, context_features=1)
    assert decoder.net is not None and encoder.net is not None
    with torch.no_grad():
        decoder.net.weight.copy_(torch.tensor([[1.0], [0.0]]))
        encoder.net.weight.copy_(torch.tensor([[0.8], [0.0]]))
    flow = fk.Flow(StandardNormal((1,)).double(), VariationalStep(decoder, encoder).double())
    x = torch.tensor([[0.7], [-2.0]], dtype=torch.float64)
    exact = normal(0.0, 1.25**0.5, 1).log_prob(x)
    torch.testing.assert_close(flow.log_prob(x), exact, atol=1e-6, rtol=0)  # tight at the exact posterior
    with torch.no_grad():
        encoder.mean.add_(0.3)
    assert bool((flow.log_prob(x.expand(DRAWS, 2, 1)).mean(0) < exact).all())
    agrees(flow, x, exact.exp().detach())


TARGET = normal([1.0], [0.6], 1)
KERNELS = [
    Metropolis(TARGET, 3),
    Hamiltonian(TARGET, 2, step_size=0.4),
    Langevin(TARGET, 3, step_size=0.05),
    Annealing(normal(0.0, 1.0, 1), TARGET, 3, step_size=0.3),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_transitions(kernel: Transform) -> None:
    flow = fk.Flow(StandardNormal((1,)).double(), kernel.double())  # type: ignore[arg-type]
    line = torch.linspace(-6, 7, 1301, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        log_prob = torch.stack([flow.log_prob(line, generator=torch.Generator().manual_seed(i)) for i in range(200)])
    masses = log_prob.exp().sum(-1) * 0.01
    assert float(masses.mean()) == pytest.approx(1.0, abs=4 * float(masses.std()) / 200**0.5)
    # the same density as a histogram of samples
    density, edge = log_prob.exp().mean(0), 0.5
    samples = flow.sample(DRAWS, generator=torch.Generator().manual_seed(1))
    above = float((samples > edge).double().mean())
    assert float(density[line.flatten() > edge].sum() * 0.01) == pytest.approx(above, abs=0.02)
    # samples have moved from the base's mean 0 towards the target's 1, as far as the density says
    mean = float((density * line.flatten()).sum() * 0.01)
    assert 0.05 < mean < 1.0 and float(samples.mean()) == pytest.approx(mean, abs=0.03)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_path_weights_are_unbiased(kernel: Transform) -> None:
    flow = fk.Flow(StandardNormal((1,)).double(), kernel.double())  # type: ignore[arg-type]
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob(DRAWS, generator=torch.Generator().manual_seed(3))
        weight = (TARGET.log_prob(x) - log_prob).exp()
    assert float(weight.mean()) == pytest.approx(1.0, abs=4 * float(weight.std()) / DRAWS**0.5)


def test_annealing_beats_plain_importance_weights() -> None:
    far = normal([2.0, -2.0], 0.5, 2)
    base = StandardNormal((2,)).double()
    shares = []
    for flow in (fk.Flow(base, Affine((2,)).double()), fk.Flow(base, Annealing(base, far, 16, step_size=0.3))):
        x, log_prob = flow.sample_and_log_prob(4000, generator=torch.Generator().manual_seed(0))
        shares.append(float(fk.evaluation.ess((far.log_prob(x) - log_prob).detach())) / 4000)
    assert shares[1] > 10 * shares[0]


def test_composition_says_what_it_is() -> None:
    chain = Affine((2,)) >> Absolute(2)
    assert isinstance(chain, SurjectiveChain) and chain.traits.log_det == "bound"
    assert (Affine((2,)) >> ~Absolute(2)).traits.log_det == "exact"
    assert isinstance(chain[:1], Chain)
    flow = fk.Flow(StandardNormal((2,)), chain)
    assert flow.density == "lower_bound" and "lower_bound" in flow.summary()
    assert fk.Flow(StandardNormal((2,)), Affine((2,))).density == "exact"
    assert ~~chain is chain and (~chain).traits.log_det == "exact"


def test_trains_on_integers() -> None:
    x = torch.poisson(torch.full((512, 2), 3.0), generator=torch.Generator().manual_seed(0)).clamp(max=15)
    flow = fk.Flow(StandardNormal((2,)), Affine((2,), loc=8.0, scale=4.0) >> UniformDequantization(16, (2,)))
    before = flow.log_prob(x).mean().item()
    fk.fit(flow, x, max_steps=80, lr=0.1, seed=0, progress=False)
    assert flow.log_prob(x).mean().item() > before + 0.3
    samples = flow.sample(100)
    assert bool((samples == samples.round()).all())


def test_refusals() -> None:
    with pytest.raises(ShapeError, match="keep"):
        Slice(3, 3)
    with pytest.raises(ShapeError, match="even height"):
        MaxPool((1, 3, 4))
    with pytest.raises(ConfigError, match="unit box"):
        VariationalDequantization(4, fk.Flow(StandardNormal((1,)), Affine((1,), context_features=1)))
    with pytest.raises(ShapeError, match="encoder"):
        VariationalStep(DiagonalNormal((2,), context_features=1), DiagonalNormal((1,)))
    with pytest.raises(ConfigError, match="step_size"):
        Langevin(TARGET, step_size=-1.0)
    with pytest.raises(ConfigError, match="bijectors"):
        Chain([Absolute(2)])  # type: ignore[list-item]
