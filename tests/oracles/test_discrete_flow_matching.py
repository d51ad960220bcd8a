"""Discrete flow matching against a law of two tokens of three levels, where everything can be enumerated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import Tensor, nn

import flowkit as fk
from flowkit.core.objective import Batch
from flowkit.flows import DiscreteFlow
from flowkit.numerics import ctmc
from flowkit.objectives import DiscreteFlowMatching

K = 3
DATA = list(itertools.product(range(K), repeat=2))
LAW = torch.tensor([[0.20, 0.05, 0.02], [0.01, 0.30, 0.10], [0.15, 0.02, 0.15]], dtype=torch.float64)
ENTROPY = -float((LAW * LAW.log()).sum())
SOURCES = ("mask", "uniform")


class TrueNet(nn.Module):
    """p(x1 of a token | x_t of the other): what a perfect network would have learnt, a cutting of the law's table."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.register_buffer("law", LAW.clone())

    def forward(self, tokens: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        law = self.law.to(noise)
        likelihood = own_likelihood(tokens, noise.clamp(max=1 - 1e-12), self.source)  # at 1 states beside the noise have no chance, and no posterior
        first = torch.einsum("kl,...l->...k", law, likelihood[..., 1, :])
        second = torch.einsum("kl,...k->...l", law, likelihood[..., 0, :])
        return torch.stack([first, second], dim=-2).log()


def own_likelihood(tokens: Tensor, noise: Tensor, source: str) -> Tensor:
    """p(x_t | x1 = k) for every k: (*B, n) -> (*B, n, K)."""
    hit = (tokens.unsqueeze(-1) == torch.arange(K)).to(noise)
    hidden = (tokens == K).to(noise).unsqueeze(-1) if source == "mask" else 1 / K
    return (1 - noise)[..., None, None] * hit + noise[..., None, None] * hidden


def true_flow(source: str, **options: object) -> DiscreteFlow:
    return DiscreteFlow(2, K, source=source, net=TrueNet(source), **{"bound": "quadrature", **options}).double()  # type: ignore[arg-type]


def states_of(source: str) -> Tensor:
    return torch.tensor(list(itertools.product(range(K + (source == "mask")), repeat=2)))


def path_law(source: str, noise: float) -> Tensor:
    """p_t by its definition, over the states: (S)."""
    states = states_of(source)
    likelihood = own_likelihood(states, torch.full((len(states),), noise, dtype=torch.float64), source)
    return torch.einsum("kl,sk,sl->s", LAW, likelihood[:, 0], likelihood[:, 1])


def wide(posterior: Tensor, source: str) -> Tensor:
    """Probabilities over levels, with a zero for the mask: (..., K) -> (..., K or K + 1)."""
    return nn.functional.pad(posterior, (0, 1)) if source == "mask" else posterior


def transition(flow: DiscreteFlow, now: float, after: float, refreshed: float = 0.0) -> Tensor:
    """One step of the sampler as a matrix over states, from the flow's own posterior: (S, S)."""
    source = flow.source
    states = states_of(source)
    posterior = wide(flow.log_posterior(states, torch.full((len(states),), now, dtype=torch.float64)).exp(), source)
    levels = posterior.shape[-1]
    stay, jump = torch.eye(levels, dtype=torch.float64)[states], ctmc.jump_probability(now, after)
    fresh = torch.zeros(levels, dtype=torch.float64)
    fresh[K if source == "mask" else slice(None)] = 1.0 if source == "mask" else 1 / K
    row = (1 - refreshed) * ((1 - jump) * stay + jump * posterior) + refreshed * ((1 - after) * posterior + after * fresh)
    return torch.einsum("sk,sl->skl", row[:, 0], row[:, 1]).flatten(1)


def euler_laws(flow: DiscreteFlow, steps: int) -> list[Tensor]:
    """The law of the sampler after every step, from its transition matrices."""
    law, laws = path_law(flow.source, 1.0), []
    for k in range(steps):
        now, after = 1 - (k / steps) ** flow.power, 1 - ((k + 1) / steps) ** flow.power
        refreshed = 1 - math.exp(-flow.corrector / steps) if k + 1 < steps else 0.0
        law = law @ transition(flow, now, after, refreshed)
        laws.append(law)
    return laws


def total_variation(a: Tensor, b: Tensor) -> float:
    return 0.5 * float((a - b).abs().sum())


@pytest.mark.parametrize("corrector", [0.0, 2.0])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("source", SOURCES)
def test_euler_marginals(source: str, power: float, corrector: float) -> None:
    """continuous-C.10.8: Euler marginals within 0.01 TV of p_t at h = 0.01, at every step; the error halves with h."""
    flow = true_flow(source, power=power, corrector=corrector)
    worst = {}
    for steps in (50, 100):
        laws = euler_laws(flow, steps)
        worst[steps] = max(total_variation(law, path_law(source, 1 - ((k + 1) / steps) ** power)) for k, law in enumerate(laws))
    assert worst[100] <= 0.01
    assert worst[100] <= 0.65 * worst[50]


@pytest.mark.parametrize("source", SOURCES)
def test_rates_solve_the_forward_equation(source: str) -> None:
    """dp_t/dt = p_t G, by central differences of the path's law; and the corrector's rates leave p_t where it is."""
    flow, noise = true_flow(source), 0.4
    step = 1e-5
    slope = (path_law(source, noise - step) - path_law(source, noise + step)) / (2 * step)
    size = len(states_of(source))
    eye = torch.eye(size, dtype=torch.float64)
    generator = (transition(flow, noise, noise - step) - transition(flow, noise, noise + step)) / (2 * step)
    torch.testing.assert_close(path_law(source, noise) @ generator, slope, atol=1e-8, rtol=0)
    share = 1e-4
    drift = path_law(source, noise) @ (transition(flow, noise, noise, share) - eye) / share
    back = path_law(source, noise) @ (transition(flow, noise, noise, -share) - eye) / -share
    torch.testing.assert_close((drift + back) / 2, torch.zeros(size, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("corrector", [0.0, 3.0])
@pytest.mark.parametrize("source", SOURCES)
def test_sampler_draws_from_its_chain(source: str, corrector: float) -> None:
    """Frequencies of the shipped sampler against the product of its transition matrices: chi-square over 100,000 draws."""
    flow, n = true_flow(source, steps=5, corrector=corrector), 100_000
    x = flow.sample_tokens(n, generator=torch.Generator().manual_seed(0))
    assert x.dtype == torch.int64 and int(x.max()) < K
    law = euler_laws(flow, 5)[-1].reshape(K + (source == "mask"), -1)[:K, :K].flatten()
    assert float(law.sum()) == pytest.approx(1.0, abs=1e-12)
    counts = torch.bincount(K * x[:, 0] + x[:, 1], minlength=K * K)
    assert stats.chisquare(counts.numpy(), n * law.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_mask_bound_is_the_entropy(power: float) -> None:
    """continuous-C.10.8: with mask source and the exact posterior the integral of the loss is H(x1) to 1e-6, and log p(x) at every x."""
    flow = true_flow("mask", power=power)
    log_prob = flow.log_prob(torch.tensor(DATA, dtype=torch.float64))
    assert -float((LAW.flatten() * log_prob).sum()) == pytest.approx(ENTROPY, abs=1e-6)
    torch.testing.assert_close(log_prob, LAW.flatten().log(), atol=1e-6, rtol=0)


def relative_entropy_rate(flow: DiscreteFlow, noise: float) -> float:
    """E over x1 and x_t of sum over y of v - u + u log(u / v), from the definition, times kappa' = 1: loops and no formula of the library."""
    total = 0.0
    posterior = {s: flow.log_posterior(torch.tensor(s), torch.tensor(noise, dtype=torch.float64)).exp().numpy() for s in DATA}
    for x1, weight in zip(DATA, LAW.flatten().tolist(), strict=True):
        for state in DATA:
            chance = weight * math.prod((1 - noise) * (a == b) + noise / K for a, b in zip(state, x1, strict=True))
            for i, level in itertools.product(range(2), range(K)):
                if level != state[i]:
                    model, truth = posterior[state][i, level] / noise, (level == x1[i]) / noise
                    total += chance * (model - truth + (truth * math.log(truth / model) if truth else 0.0))
    return total


def test_uniform_bound_is_the_relative_entropy_of_paths() -> None:
    """With uniform noise the bound lies above the entropy, and equals the path integral taken from its definition by adaptive quadrature."""
    flow = true_flow("uniform")
    bound = -float((LAW.flatten() * flow.log_prob(torch.tensor(DATA, dtype=torch.float64))).sum())
    wanted, _ = quad(lambda u: 2 * u * relative_entropy_rate(flow, u * u), 0, 1, epsabs=1e-8, limit=200)
    assert bound == pytest.approx(wanted, abs=1e-5)
    assert bound > ENTROPY + 0.3  # loose even at the true posterior, as the docstring says


@pytest.mark.parametrize("source", SOURCES)
def test_drawn_bound_is_unbiased(source: str) -> None:
    """The Monte Carlo bound averages to the quadrature's, within four standard errors; its loss too."""
    exact = true_flow(source)
    drawn = exact.with_bound("monte_carlo", draws=2)
    x = torch.tensor(DATA, dtype=torch.float64)
    many = drawn.log_prob(x.expand(20_000, 9, 2), generator=torch.Generator().manual_seed(0))
    error = many.std(0) / 20_000**0.5
    assert bool(((many.mean(0) - exact.log_prob(x)).abs() <= 4 * error).all())
    rows = torch.multinomial(LAW.flatten(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    loss = DiscreteFlowMatching(criterion="generalized_kl").loss(drawn, Batch(x[rows]), torch.Generator().manual_seed(2)).value
    assert float(loss) == pytest.approx(-float((LAW.flatten() * exact.log_prob(x)).sum()), abs=0.02)


def test_cross_entropy_is_least_at_the_posterior() -> None:
    """With mask noise and kappa = t the cross-entropy is the mean over t of the masked tokens' log-probabilities."""
    flow = true_flow("mask")
    x = torch.tensor(DATA, dtype=torch.float64)
    rows = torch.multinomial(LAW.flatten(), 200_000, replacement=True, generator=torch.Generator().manual_seed(1))
    loss = DiscreteFlowMatching().loss(flow, Batch(x[rows]), torch.Generator().manual_seed(2)).value
    alone = -sum(float((LAW.sum(i) * LAW.sum(i).log()).sum()) for i in (0, 1))  # H of one token when the other is hidden, summed
    wanted = alone / 3 + (2 * ENTROPY - alone) / 6  # int (1-t)^2 and int t (1-t)
    assert float(loss) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("steps", [3, 12])
def test_path_weights_are_unbiased(steps: int) -> None:
    """With mask noise P(x) / exp(log_prob of the path) averages to 1 for any law P, also with an untrained net and few steps."""
    torch.manual_seed(0)
    flow = DiscreteFlow(2, K, (8,), steps=steps).double()
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob(100_000, generator=torch.Generator().manual_seed(3))
    weight = LAW[tuple(x.long().T)] / log_prob.exp()
    assert float(weight.mean()) == pytest.approx(1.0, abs=4 * float(weight.std()) / 100_000**0.5)


def test_guidance() -> None:
    """continuous-C.10.10: scale 1 is the conditional call and 0 the null call, bitwise; between and beyond, log-probabilities are mixed."""
    torch.manual_seed(0)
    flow = DiscreteFlow(2, K, (16,), source="uniform", classes=2, steps=4)
    tokens, noise = torch.tensor(DATA), torch.linspace(0.1, 1.0, 9)
    labels = torch.arange(9) % 2
    given, null = flow.log_posterior(tokens, noise, labels), flow.log_posterior(tokens, noise, torch.full((9,), -1))
    assert torch.equal(flow.guided(1.0).log_posterior(tokens, noise, labels), given)
    assert torch.equal(flow.guided(0.0).log_posterior(tokens, noise, labels), null)
    assert not torch.equal(given, null)
    mixed = (null + 2.5 * (given - null)).log_softmax(-1)
    torch.testing.assert_close(flow.guided(2.5).log_posterior(tokens, noise, labels), mixed, atol=1e-5, rtol=0)
    one = flow.guided(0.0).sample_tokens((50,), torch.tensor(1), torch.Generator().manual_seed(0))
    assert torch.equal(one, flow.sample_tokens((50,), torch.tensor(-1), torch.Generator().manual_seed(0)))


def test_temperature() -> None:
    """At 0 every token that appears is the likeliest given what there is; the density stays that of temperature 1."""
    flow = true_flow("mask", steps=200)
    x, log_prob = flow.sample_and_log_prob(2000, generator=torch.Generator().manual_seed(0), temperature=0.0)
    pairs = {tuple(row) for row in x.long().tolist()}
    assert pairs <= {(1, 1), (0, 1)} and (1, 1) in pairs  # the likeliest alone are 1 and 1, and 1 follows from 1
    one = log_prob[(x == 1).all(-1)]
    assert float(one.exp().mean()) == pytest.approx(float(LAW[1, 1]), abs=0.05)


@pytest.mark.parametrize(("source", "criterion"), [("mask", "cross_entropy"), ("mask", "generalized_kl"), ("uniform", "generalized_kl")])
def test_learns_the_law_from_int64(source: str, criterion: str) -> None:
    """A net trained on int64 tokens reaches the bound of the true posterior within 0.03 nats, and its samples the law within 0.04 TV."""
    rows = torch.multinomial(LAW.flatten(), 4096, replacement=True, generator=torch.Generator().manual_seed(1))
    x = torch.tensor(DATA)[rows]
    torch.manual_seed(0)
    flow = DiscreteFlow(2, K, (64,), source=source, bound="quadrature", steps=50)  # type: ignore[arg-type]
    fk.fit(flow, x, DiscreteFlowMatching(criterion=criterion), max_steps=400, batch_size=1024, lr=5e-3, ema=0.98, seed=0, progress=False)  # type: ignore[arg-type]
    grid = torch.tensor(DATA, dtype=torch.float32)
    with torch.no_grad():
        bound = -float((LAW.flatten() * flow.log_prob(grid)).sum())
    best = -float((LAW.flatten() * true_flow(source).log_prob(grid.double())).sum())
    assert best - 1e-5 <= bound <= best + 0.03
    drawn = flow.sample_tokens(20_000, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(K * drawn[:, 0] + drawn[:, 1], minlength=9) / 20_000
    assert total_variation(share.double(), LAW.flatten()) < 0.04


def test_jump_probability_uses_the_whole_rate() -> None:
    """1 - exp(- integral of kappa' / (1 - kappa)), and 1 at the end."""
    for power in (1.0, 3.0):
        rate, _ = quad(lambda t, n=power: n * t ** (n - 1) / (1 - t**n), 0.3, 0.7)
        assert ctmc.jump_probability(ctmc.noise_at(0.3, power), ctmc.noise_at(0.7, power)) == pytest.approx(-np.expm1(-rate), abs=1e-12)
        assert ctmc.jump_probability(ctmc.noise_at(0.9, power), ctmc.noise_at(1.0, power)) == 1.0
