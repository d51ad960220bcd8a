"""Diffusion samplers: exact balance, closed forms, unbiased weights, and the mixture of nine."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowkit as fk
from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch, Objective
from flowkit.core.target import Target
from flowkit.core.vector_field import VectorField
from flowkit.flows import DiffusionSampler
from flowkit.objectives import DetailedBalance, LogVariance, PathIntegral, SubtrajectoryBalance, TrajectoryBalance
from flowkit.objectives._balance import subtrajectory_weights, weighted_differences
from flowkit.testing._case import perturb
from flowkit.training.optimizers import make_optimizer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Formula(VectorField):
    """A control given by a formula of (t, x)."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.formula, self.event_shape = formula, (features,)

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return self.formula(t.unsqueeze(-1), x)


class LogFlow(nn.Module):
    """log F given by a formula of (t, x), for t > 0, and a number at t = 0."""

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor], start: float) -> None:
        super().__init__()
        self.formula, self.start = formula, start

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return torch.where(t > 0, self.formula(t.clamp(min=1e-9), x), self.start)


class Energy(Target):
    """A density of one number, by a formula."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula, self.event_shape = formula, (1,)

    def log_density(self, x: Tensor) -> Tensor:
        return self.formula(x.squeeze(-1))


def log_normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """log N(x; mean, variance I): (*B, D) -> (*B)."""
    variance = torch.as_tensor(variance, dtype=x.dtype)
    return (-0.5 * (x - mean).square() / variance - 0.5 * (2 * math.pi * variance).log()).sum(-1)


def normal(features: int, scale: float) -> Target:
    return fk.targets.GaussianMixture([[0.0] * features], scale)


def two() -> Target:
    """Two overlapping normals in the plane."""
    return fk.targets.GaussianMixture([[1.0, 0.5], [-1.0, 0.0]], [0.8, 0.6])


def differences(objective: SubtrajectoryBalance, sampler: DiffusionSampler, paths: int) -> Tensor:
    """delta_mn for m < n of fresh paths: (pairs, B)."""
    with torch.no_grad():
        drawn = objective._draw(sampler, Batch(size=paths), torch.Generator().manual_seed(0))
        a = objective._potentials(sampler, drawn)
    delta = a.unsqueeze(1) - a.unsqueeze(0)
    m, n = torch.triu_indices(len(a), len(a), 1)
    return delta[m, n]


def untrained(target: Any, steps: int = 8, sigma: float = 1.2, **options: Any) -> DiffusionSampler:
    """A small sampler with random weights, float64."""
    torch.manual_seed(0)
    sampler = DiffusionSampler(target, steps, sigma, width=8, **options)
    for parameter in sampler.diffusion.control.parameters():
        with torch.no_grad():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return sampler.double()


# -- exact balance ----------------------------------------------------------------------------------------------


def test_reference_is_balanced() -> None:
    """physics-C1: without control, mu and F the reference's own marginals: every delta below 1e-10, log Z = 0, ESS = 1."""
    steps, sigma, duration = 20, 0.8, 1.5
    target = normal(2, sigma * math.sqrt(duration))
    sampler = DiffusionSampler(target, steps, sigma, duration=duration, control=Formula(lambda t, x: torch.zeros_like(x), 2)).double()
    reference = LogFlow(lambda t, x: log_normal(x, 0.0, t.unsqueeze(-1) * sigma**2), 0.0)
    assert differences(SubtrajectoryBalance(target, log_flow=reference), sampler, 64).abs().max() < 1e-10
    report = fk.sampling.importance(sampler, target, 2000, progress=False)
    assert abs(report.log_z) < 1e-10 and report.ess == pytest.approx(1.0, abs=1e-10)


def test_path_densities_are_the_normals_of_the_steps() -> None:
    """log P_F and log P_B of a path against the normal densities they stand for, and the importance weight made of them."""
    sampler = untrained(two(), duration=0.7)
    with torch.no_grad():
        path = sampler.rollout(16, sigma=1.7, generator=torch.Generator().manual_seed(1))
        h, x, t = 0.7 / 8, path.x, path.t
        control, score = sampler.diffusion.control, sampler.target.score(x[:-1])
        u = torch.stack([control(control.plan(t[n]), x[n], score[n]) for n in range(8)])  # type: ignore[arg-type]
        forward = log_normal(x[1:], x[:-1] + h * 1.2 * u, h * 1.2**2)
        n = torch.arange(1, 8, dtype=torch.float64)[:, None, None]
        backward = log_normal(x[1:-1], n / (n + 1) * x[2:], n / (n + 1) * h * 1.2**2)
    assert torch.equal(x[0], torch.zeros_like(x[0])) and t[-1] == 0.7
    torch.testing.assert_close(path.log_pf, forward, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.log_pb[1:], backward, rtol=1e-10, atol=1e-10)
    assert path.log_pb[0].abs().max() < 1e-10
    torch.testing.assert_close(path.log_weight, sampler.target.log_density(x[-1]) + backward.sum(0) - forward.sum(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sampler.log_ratio(path), path.log_pf - path.log_pb, rtol=1e-10, atol=1e-10)


def test_optimal_control_of_a_normal() -> None:
    """physics-C2: for N(0, s^2) with the control and flow of continuous time, the rms delta at least halves from N = 50 to 200."""
    spread, sigma, duration, features = 0.6, 1.0, 1.0, 2
    excess = 1 / spread**2 - 1 / (duration * sigma**2)  # mu over the reference is exp(-excess x^2 / 2) times a constant

    def smoothing(t: Tensor) -> Tensor:
        return 1 + excess * (duration - t) * sigma**2

    def log_flow(t: Tensor, x: Tensor) -> Tensor:
        constant = 0.5 * features * math.log(duration * sigma**2 / spread**2)
        ratio = constant - 0.5 * features * smoothing(t).log() - 0.5 * excess * x.square().sum(-1) / smoothing(t)
        return ratio + log_normal(x, 0.0, t.unsqueeze(-1) * sigma**2)

    def rms(steps: int) -> float:
        control = Formula(lambda t, x: -sigma * excess * x / smoothing(t), features)
        sampler = DiffusionSampler(normal(features, spread), steps, sigma, duration=duration, control=control).double()
        return float(differences(SubtrajectoryBalance(sampler.target, log_flow=LogFlow(log_flow, 0.0)), sampler, 512).square().mean().sqrt())

    coarse, fine = rms(50), rms(200)
    assert fine <= 0.5 * coarse and coarse < 0.3, f"rms delta {coarse:.4f} at N = 50, {fine:.4f} at N = 200"


# -- losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
def test_losses_are_their_definitions(decay: float) -> None:
    """physics-C3: the loss of sub-trajectories against three loops over paths and pairs, 1e-6."""
    sampler = untrained(two())
    objective = SubtrajectoryBalance(sampler.target, decay, width=8, exploration=1.5).double()
    perturb(objective)
    with torch.no_grad():
        drawn = objective._draw(sampler, Batch(size=5), torch.Generator().manual_seed(2))
        log_flow = torch.cat([objective._log_flow(sampler, drawn), drawn.path.log_mu[-1:]])
        loss = objective.loss(sampler, Batch(size=5), torch.Generator().manual_seed(2)).value
    total, weights = 0.0, 0.0
    for path in range(5):
        for m in range(8):
            for n in range(m + 1, 9):
                delta = log_flow[m, path] - log_flow[n, path] + (drawn.path.log_pf - drawn.path.log_pb)[m:n, path].sum()
                total, weights = total + decay ** (n - m) * float(delta) ** 2, weights + decay ** (n - m)
    assert loss.item() == pytest.approx(total / weights, rel=1e-6)


def test_limits_of_the_decay() -> None:
    """physics-C3: decay to infinity leaves the whole path, decay to 0 the single steps, 1e-6; 400 steps do not overflow."""
    a = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = weighted_differences(a, subtrajectory_weights(8, 1e9, a))
    torch.testing.assert_close(whole, (a[0] - a[-1]).square(), rtol=1e-6, atol=1e-6)
    single = weighted_differences(a, subtrajectory_weights(8, 1e-9, a))
    torch.testing.assert_close(single, a.diff(dim=0).square().mean(0), rtol=1e-6, atol=1e-6)
    many = torch.randn(401, 4) + 1e4
    assert weighted_differences(many, subtrajectory_weights(400, 2.0, many)).isfinite().all()


def test_whole_paths_and_steps() -> None:
    """Trajectory balance, detailed balance and the log-variance are the differences they name, of the same paths."""
    sampler, size = untrained(two()), Batch(size=6)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    log_weight = sampler.rollout(6, generator=seeded()).log_weight
    whole = TrajectoryBalance(sampler.target, start=1.5).double().loss(sampler, size, seeded())
    assert whole.value.item() == pytest.approx((1.5 - log_weight).square().mean().item(), rel=1e-9)
    assert LogVariance(sampler.target).loss(sampler, size, seeded()).value.item() == pytest.approx(log_weight.var().item(), rel=1e-9)
    assert whole.terms["elbo"].item() == pytest.approx(log_weight.mean().item(), rel=1e-9)
    torch.manual_seed(0)
    detailed = DetailedBalance(sampler.target, width=8).double()
    a = detailed._potentials(sampler, detailed._draw(sampler, size, seeded()))
    assert detailed.loss(sampler, size, seeded()).value.item() == pytest.approx(a.diff(dim=0).square().mean().item(), rel=1e-9)


def nodes(value: Tensor) -> int:
    """Size of an autograd graph."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_no_gradient_through_the_paths() -> None:
    """physics-C7: paths carry no graph; the gradient is that of log P_F and F at fixed places; the graph does not grow with N."""
    sizes = []
    for steps in (4, 32):
        sampler = untrained(two(), steps)
        torch.manual_seed(1)
        objective = SubtrajectoryBalance(sampler.target, width=8).double()
        path = sampler.rollout(8, generator=torch.Generator().manual_seed(0))
        assert not any(part.requires_grad for part in (path.x, path.log_pf, path.log_pb, path.log_mu, path.score))  # type: ignore[union-attr]
        loss = objective.loss(sampler, Batch(size=8), torch.Generator().manual_seed(0)).value
        sizes.append(nodes(loss))
        wanted = torch.autograd.grad(loss, list(sampler.parameters()))
        fixed = objective._draw(sampler, Batch(size=8), torch.Generator().manual_seed(0))
        fixed = fixed._replace(log_ratio=sampler.log_ratio(path))
        again = weighted_differences(objective._potentials(sampler, fixed), subtrajectory_weights(steps, 2.0, path.x)).mean()
        for one, other in zip(wanted, torch.autograd.grad(again, list(sampler.parameters())), strict=True):
            torch.testing.assert_close(one, other)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("score", ["exact", "stopped"])
def test_path_integral_gradient(score: Any) -> None:
    """PIS through the paths: with the exact score its gradient is the slope of the loss, with the stopped one it is not."""
    sampler = untrained(two(), 4, 0.8)
    objective = PathIntegral(sampler.target, score=score)

    def loss() -> Tensor:
        return objective.loss(sampler, Batch(size=16), torch.Generator().manual_seed(0)).value

    parameters = list(sampler.parameters())
    slopes = torch.autograd.grad(loss(), parameters)
    directions, step = [torch.randn_like(parameter) for parameter in parameters], 1e-6
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(sign * step * direction)
            ends.append(loss())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(sign * step * direction)
    found = float(sum((slope * direction).sum() for slope, direction in zip(slopes, directions, strict=True)))
    difference = float(ends[0] - ends[1]) / (2 * step)
    assert (abs(found - difference) < 1e-5 * max(1.0, abs(difference))) == (score == "exact")


def test_energies_are_looked_at_once() -> None:
    """A control that needs no score leaves one evaluation a path to objectives of whole paths; log F needs it at every place."""
    seen: list[int] = []

    def formula(x: Tensor) -> Tensor:
        seen.append(x.numel())
        return -0.5 * x.square()

    target = Energy(formula)
    sampler = DiffusionSampler(target, 6, control=fk.continuous.MLPField(1, (8,)))
    for objective, places in ((TrajectoryBalance(target), 1), (LogVariance(target), 1), (PathIntegral(target), 1), (SubtrajectoryBalance(target, width=8), 7)):
        seen.clear()
        objective.loss(sampler, Batch(size=10))
        assert sum(seen) == 10 * places
    scored = DiffusionSampler(target, 6, width=8)
    for objective in (TrajectoryBalance(target), SubtrajectoryBalance(target, width=8)):
        seen.clear()
        objective.loss(scored, Batch(size=10))
        assert sum(seen) == 70


# -- weights ----------------------------------------------------------------------------------------------------

ENERGIES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "normal": (lambda x: 1.3 - 0.5 * ((x - 0.7) / 0.6).square(), 1.2),
    "two_modes": (lambda x: torch.logaddexp(-2 * (x - 1).square(), 0.7 - 3 * (x + 1).square()), 1.2),
    "quartic": (lambda x: -0.25 * x**4 + x.square() - 0.3 * x, 1.4),
}


@pytest.mark.parametrize("name", list(ENERGIES))
def test_weights_are_unbiased(name: str) -> None:
    """physics-C4: E[exp log w] = Z for a random control and targets of one dimension, within 4 standard errors."""
    formula, sigma = ENERGIES[name]
    sampler = untrained(Energy(formula), 10, sigma)
    line = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    exact = torch.trapezoid(formula(line).exp(), line).log().item()
    with torch.no_grad():
        x, log_prob = sampler.sample_and_log_prob(40_000, generator=torch.Generator().manual_seed(0))
    weights = (sampler.target.log_density(x) - log_prob - exact).exp()
    error = float(weights.std()) / 200
    assert abs(float(weights.mean()) - 1) <= 4 * error and error < 0.05
    report = fk.sampling.importance(sampler, sampler.target, 20_000, generator=torch.Generator().manual_seed(1), progress=False)
    assert abs(report.log_z - exact) <= 4 * report.log_z_error and report.elbo < exact


def test_backward_paths_estimate_the_density() -> None:
    """exp(log_prob) averages to the marginal of two steps, by quadrature over the first; more bridges bring the bound up to it."""
    sampler = untrained(Energy(ENERGIES["two_modes"][0]), 2)
    x = torch.tensor([[-1.1], [0.2], [1.4]], dtype=torch.float64)
    steps = sampler.diffusion
    first = torch.linspace(-9, 9, 6001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        plan = steps.control.plan(steps.times(first)[:-1])
        u_0 = steps.control(tuple(part[0] for part in plan), torch.zeros_like(first[:1]), steps.look(torch.zeros_like(first[:1]))[0])
        u_1 = steps.control(tuple(part[1] for part in plan), first, steps.look(first)[0])
        joint = log_normal(first, 0.5 * 1.2 * u_0, 0.5 * 1.44) + log_normal(x.unsqueeze(1), first + 0.5 * 1.2 * u_1, 0.5 * 1.44)
        density = torch.trapezoid(joint.exp(), first.squeeze(-1))
        many = sampler.log_prob(x.expand(40_000, 3, 1), generator=torch.Generator().manual_seed(0))
    error = many.exp().std(0) / 200
    assert ((many.exp().mean(0) - density).abs() <= 4 * error).all()
    tight = DiffusionSampler(sampler.target, 2, 1.2, width=8, backward_samples=200).double()
    tight.load_state_dict(sampler.state_dict())
    with torch.no_grad():
        bound = tight.log_prob(x.expand(50, 3, 1), generator=torch.Generator().manual_seed(1)).mean(0)
    assert (bound > many.mean(0)).all() and (bound - density.log()).abs().max() < 0.02


def test_latents_are_the_first_noise() -> None:
    """to_data starts from z; samples of equal generators agree with and without weights, and with the graph."""
    sampler = untrained(fk.targets.DoubleWell4(), 5)
    assert sampler.event_shape == (4, 2) and sampler.density == "lower_bound"
    plain = sampler.sample((2, 3), generator=torch.Generator().manual_seed(0))
    x, log_prob = sampler.sample_and_log_prob((2, 3), generator=torch.Generator().manual_seed(0))
    assert plain.shape == (2, 3, 4, 2) and log_prob.shape == (2, 3) and not plain.requires_grad and x.requires_grad
    torch.testing.assert_close(x.detach(), plain)
    assert sampler.to_latent(plain).shape == plain.shape and sampler.log_prob(plain).isfinite().all()


def test_what_a_sampler_refuses() -> None:
    """A temperature, which would act on the first step alone, and an objective of another dtype."""
    sampler = DiffusionSampler(fk.targets.ManyWell(2), 4, width=8)
    with pytest.raises(ConfigError, match="temperature would act on the noise of the first step alone"):
        sampler.sample((3,), temperature=0.5)
    objective = SubtrajectoryBalance(sampler.target, width=8)
    with pytest.raises(ConfigError, match=r"objective of torch\.float64, the sampler's dtype; got torch\.float32"):
        objective.loss(sampler.double(), Batch(size=4))
    assert objective.double().loss(sampler, Batch(size=4)).value.dtype == torch.float64


# -- training ---------------------------------------------------------------------------------------------------


def test_flow_function_has_its_own_learning_rate() -> None:
    """Adam's 1e-4 for the control and 1e-3 for log F and log Z, in one pass; a target's own parameters stay as they are."""
    target = fk.distributions.DiagonalNormal((2,))  # learned location and scale
    sampler = DiffusionSampler(target, 4, width=8)
    for objective in (SubtrajectoryBalance(target, width=8), TrajectoryBalance(target)):
        (phase,) = objective.phases(sampler)
        optimizer = make_optimizer("adam", phase, 1e-4, 1e-7)
        rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        assert {rates[id(p)] for p in sampler.diffusion.control.parameters()} == {1e-4}
        assert {round(rates[id(p)], 9) for name, p in objective.named_parameters() if not name.startswith("target")} == {1e-3}
        assert not {id(p) for p in target.parameters()} & set(rates)
    before = [parameter.clone() for parameter in target.parameters()]
    fk.fit(sampler, None, PathIntegral(target), max_steps=3, batch_size=8, weight_decay=0.1, progress=False)
    assert all(torch.equal(one, other) for one, other in zip(before, target.parameters(), strict=True))


def test_a_normal_is_learned() -> None:
    """60 steps take N((1, -1), 0.5^2) from an ESS below 0.2 to one above 0.6, and log Z to 0: without a graph through paths, and with one."""
    target = fk.targets.GaussianMixture([[1.0, -1.0]], 0.5)
    objectives: list[Objective] = [SubtrajectoryBalance(target, width=16), LogVariance(target), PathIntegral(target)]
    for objective in objectives:
        torch.manual_seed(0)
        sampler = DiffusionSampler(target, 8, 1.0, width=16)
        before = fk.sampling.importance(sampler, target, 2000, generator=torch.Generator().manual_seed(0), progress=False).ess
        fk.fit(sampler, None, objective, max_steps=60, batch_size=64, lr=5e-3, schedule="constant", seed=0, progress=False)
        after = fk.sampling.importance(sampler, target, 2000, generator=torch.Generator().manual_seed(0), progress=False)
        assert before < 0.2 and after.ess > 0.6, f"{type(objective).__name__}: ESS {before:.3f} to {after.ess:.3f}"
        assert abs(after.log_z) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "bias", "ess"), [(1e-3, 0.1, 0.35), (1e-4, 0.15, 0.15)], ids=["C5", "C6"])
def test_mixture_of_nine(rate: float, bias: float, ess: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """physics-C5, C6: nine modes, N = 50, T = 5, batch 128, 900 steps, log F at ten times the rate. Table: benchmarks/results/diffusion_sampler.md."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    study = runpy.run_path(str(BENCHMARKS / "diffusion_sampler.py"))
    outcome = study["train_and_judge"]("SubtrajectoryBalance", rate, 0)
    assert abs(outcome.log_z) <= bias and outcome.ess >= ess
    if rate == 1e-3:
        assert outcome.smallest_mode >= 0.03
