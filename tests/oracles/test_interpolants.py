"""Stochastic interpolants against closed forms for normal ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.core.vector_field import VectorField
from flowkit.flows import InterpolantFlow
from flowkit.objectives import StochasticInterpolant
from flowkit.objectives._ends import Ends
from flowkit.objectives._interpolant import Gamma, Interpolant

MEAN, SPREAD = 1.5, 0.6  # data N(MEAN, SPREAD^2), noise N(0, 1), independent
GAMMAS: tuple[Gamma, ...] = ("brownian", "sine", "one_sided")


class NormalPath:
    """Law of x_t = I + gamma z between N(0, 1) and N(MEAN, SPREAD^2): x_t is N(t MEAN, variance)."""

    def __init__(self, interpolant: Interpolant) -> None:
        self.interpolant = interpolant

    def variance(self, t: Tensor) -> Tensor:
        squared = {"brownian": t * (1 - t), "sine": torch.sin(math.pi * t) ** 4, "one_sided": 0 * t}[self.interpolant.gamma]
        return (t * SPREAD) ** 2 + (1 - t) ** 2 + squared

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """MEAN + Cov(dI/dt + gamma' z, x_t) / Var(x_t) (x - t MEAN)."""
        with torch.enable_grad():
            time = t.detach().clone().requires_grad_()
            (rate,) = torch.autograd.grad(self.variance(time).sum(), time)
        return MEAN + 0.5 * rate / self.variance(t) * (x - t * MEAN)

    def denoiser(self, t: Tensor, x: Tensor) -> Tensor:
        return self.interpolant.noise(t) / self.variance(t) * (x - t * MEAN)

    def score(self, t: Tensor, x: Tensor) -> Tensor:
        return -(x - t * MEAN) / self.variance(t)


class ClosedForm(VectorField):
    """A field given by a formula, plus parameters that are zero: a_0 + a_1 x + a_2 t + a_3 t x."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula, self.event_shape = formula, (1,)
        self.theta = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        time = t.unsqueeze(-1) if t.dim() else t
        return self.formula(time, x) + self.theta[0] + self.theta[1] * x + self.theta[2] * time + self.theta[3] * time * x

    def divergence(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:  # type: ignore[override]
        with torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.velocity(t, at).sum(), at)
        return slope.sum(-1)


def draws(n: int, seed: int = 0) -> tuple[Tensor, Ends, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, x1, z = torch.randn(3, n, 1, generator=generator, dtype=torch.float64)
    t = 1e-4 + (1 - 2e-4) * torch.rand(n, generator=generator, dtype=torch.float64)
    return t, Ends(x0, MEAN + SPREAD * x1), z


def gradients(term: Callable[..., Tensor], field: ClosedForm, n: int, batches: int, **options: Any) -> Tensor:
    """Gradients of batch means in theta at zero: (batches, 4)."""
    found = []
    for seed in range(batches):
        t, ends, z = draws(n, seed)
        noise = ends.x0 if options.get("one_sided") else z
        (gradient,) = torch.autograd.grad(term(field, t, ends, noise).mean(), field.theta)
        found.append(gradient)
    return torch.stack(found)


PARTS = [(part, gamma) for part in ("velocity", "denoiser", "score") for gamma in GAMMAS if part == "velocity" or gamma != "one_sided"]


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(("part", "gamma"), PARTS)
def test_closed_forms_are_stationary(part: str, gamma: Gamma, antithetic: bool) -> None:
    """continuous-C.4: at b, eta and s of normal ends the losses' gradients vanish, within five standard errors of 40 batches, and do not beside them."""
    objective = StochasticInterpolant(gamma=gamma, antithetic=antithetic)
    exact = NormalPath(objective.interpolant)
    field = ClosedForm(getattr(exact, part))

    def term(field: Any, t: Tensor, ends: Ends, z: Tensor) -> Tensor:
        return objective.velocity_loss(field, t, ends, z) if part == "velocity" else objective.noise_loss(field, t, ends, z, predicts=part)

    found = gradients(term, field, 5000, 40, one_sided=gamma == "one_sided")
    error = found.std(0) / math.sqrt(len(found))
    assert bool((found.mean(0).abs() <= 5 * error).all()), (found.mean(0), error)
    with torch.no_grad():
        field.theta[0] = 0.3  # the gradient in an offset a is a
    moved = gradients(term, field, 5000, 40, one_sided=gamma == "one_sided")
    assert abs(moved.mean(0)[0] - 0.3) <= 5 * moved.std(0)[0] / math.sqrt(len(moved)) + 1e-9


@pytest.mark.parametrize("part", ["velocity", "score"])
def test_antithetic_pairs_tame_the_ends(part: str) -> None:
    """continuous-C.4: near an end of the Brownian interpolant the gradient's variance falls at least tenfold with pairs z, -z."""
    variances = []
    for antithetic in (True, False):
        objective = StochasticInterpolant(antithetic=antithetic)
        exact = NormalPath(objective.interpolant)
        field = ClosedForm(getattr(exact, part))

        def term(field: Any, t: Tensor, ends: Ends, z: Tensor, objective: StochasticInterpolant = objective) -> Tensor:
            near = 1e-3 + 0 * t
            return objective.velocity_loss(field, near, ends, z) if part == "velocity" else objective.noise_loss(field, near, ends, z, predicts="score")

        variances.append(gradients(term, field, 500, 60)[:, 0].var().item())
    assert variances[1] >= 10 * variances[0], variances


@pytest.mark.parametrize("gamma", GAMMAS)
def test_noise_rate_is_the_derivative(gamma: Gamma) -> None:
    interpolant = Interpolant(gamma, 0.7)
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    central = (interpolant.noise(t + 1e-6) - interpolant.noise(t - 1e-6)) / 2e-6
    assert (central - interpolant.noise_rate(t)).abs().max() <= 1e-7
    ends = interpolant.noise(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([1.0 if gamma == "one_sided" else 0.0, 0.0], abs=1e-12)


def exact_flow(gamma: Gamma, predicts: Any = "denoiser") -> InterpolantFlow:
    interpolant = Interpolant(gamma, 1.0)
    exact = NormalPath(interpolant)
    noise = None if gamma == "one_sided" else ClosedForm(exact.denoiser if predicts == "denoiser" else exact.score)
    flow = InterpolantFlow(1, gamma=gamma, predicts=predicts, field=ClosedForm(exact.velocity), noise_field=noise, standardize=False)
    return flow.double()


def moments_hold(x: Tensor, mean: float, spread: float) -> None:
    """Mean, standard deviation and the fourth moment within 4.5 standard errors."""
    n, scaled = len(x), (x - mean) / spread
    for power, wanted, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float(scaled.pow(power).mean()) - wanted) <= 4.5 * math.sqrt(variance / n), (power, float(scaled.pow(power).mean()))


@pytest.mark.parametrize(("gamma", "predicts"), [("brownian", "denoiser"), ("brownian", "score"), ("sine", "denoiser"), ("one_sided", "denoiser")])
@pytest.mark.parametrize("noise", [0.0, 2.0, "callable"])
def test_sde_marginals_equal_ode_marginals(gamma: Gamma, predicts: str, noise: Any) -> None:
    """continuous-C.4: with the exact b and s the SDE, forward and backward, has the marginals of the ODE, whatever eps(t)."""
    flow, generator = exact_flow(gamma, predicts), torch.Generator().manual_seed(0)
    eps: Any = (lambda t: 0.5 + t) if noise == "callable" else noise
    x = flow.sample_sde((20_000,), generator=generator, noise=eps, steps=100)
    moments_hold(x, MEAN, SPREAD)
    data = MEAN + SPREAD * torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    z = flow.to_latent_sde(data, generator=generator, noise=eps, steps=100)
    moments_hold(z, 0.0, 1.0)
    correlation = float(torch.corrcoef(torch.cat([data, z], 1).T)[0, 1])
    if noise == 0.0:  # the ODE's map is increasing, the SDE forgets where it came from
        assert correlation > 0.999
    else:
        assert correlation < 0.95


@pytest.mark.parametrize("gamma", GAMMAS)
def test_log_prob_is_the_normal_density(gamma: Gamma) -> None:
    """continuous-C.4: log_prob of the flow with the exact b is that of the data's law."""
    flow = exact_flow(gamma).with_solver(rtol=1e-8, atol=1e-8)
    x = torch.linspace(-0.5, 3.5, 9, dtype=torch.float64)[:, None]
    wanted = torch.distributions.Normal(MEAN, SPREAD).log_prob(x).sum(-1).to(torch.float64)
    assert (flow.log_prob(x) - wanted).abs().max() <= 1e-4
