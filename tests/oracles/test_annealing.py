"""Annealing against integrals known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.target import Target
from flowkit.numerics import annealing
from flowkit.numerics.tempering import plan
from flowkit.numerics.transitions import AdjustedLangevin, HamiltonianSteps, RandomWalk, Transition, UnadjustedLangevin

Z = 3 * math.sqrt(2 * math.pi * 0.25)
KERNELS: dict[str, Transition] = {
    "hmc": HamiltonianSteps(step_size=0.3),
    "mala": AdjustedLangevin(step_size=0.1),
    "ula": UnadjustedLangevin(step_size=0.1),  # far from invariant: exact by its weights alone
    "random_walk": RandomWalk(step_size=0.7),
}


class Bump(Target):
    """3 exp(-(x - 2)^2 / (2 * 0.25)), of physics-D5."""

    event_shape = (1,)

    def log_density(self, x: Tensor) -> Tensor:
        return math.log(3) - 2 * (x - 2).square().sum(-1)


def start(generator: torch.Generator, n: int = 20_000) -> Tensor:
    return torch.randn(n, 1, generator=generator, dtype=torch.float64)


def log_start(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1) - 0.5 * math.log(2 * math.pi)


def within(log_weights: Tensor, value: float = Z, errors: float = 4.0) -> bool:
    weights = log_weights.exp()
    return abs(float(weights.mean()) - value) < errors * float(weights.std()) / math.sqrt(len(weights))


@pytest.mark.parametrize("name", KERNELS)
def test_mean_weight_is_the_integral(name: str) -> None:
    """physics-D5: E exp(lw) = Z within 4 standard errors for any kernel, and weighted samples have the target's mean."""
    generator = torch.Generator().manual_seed(1)
    run = annealing.annealed(log_start, Bump().log_density, start(generator), betas=10, kernel=KERNELS[name], generator=generator)
    assert within(run.log_weights) and run.acceptance.shape == (10,) and bool((run.acceptance > 0.2).all())
    weights = torch.softmax(run.log_weights, 0)
    mean = float(weights @ run.samples[:, 0])
    assert abs(mean - 2) < 5 * float((weights * (run.samples[:, 0] - mean)).square().sum().sqrt())
    # the gain over plain importance sampling, of which it would be a mere copy if the kernel did nothing
    plain = torch.softmax(annealing.annealed(log_start, Bump().log_density, start(generator), betas=0, kernel=KERNELS[name]).log_weights, 0)
    assert 1 / weights.square().sum() > 1.3 / plain.square().sum()


def test_last_increment_is_counted() -> None:
    """physics-D5: a schedule that stops before 1 misses Z by many standard errors, and is refused."""
    generator = torch.Generator().manual_seed(2)
    kernel, betas = KERNELS["hmc"], annealing.schedule(10)
    assert betas[-1] == 1.0 and len(betas) == 12
    run = annealing.annealed(log_start, Bump().log_density, start(generator), betas=betas, kernel=kernel, generator=generator)
    last = (betas[-1] - betas[-2]) * (Bump().log_density(run.samples) - log_start(run.samples))
    assert within(run.log_weights) and not within(run.log_weights - last, errors=8)
    with pytest.raises(fk.core.errors.ConfigError, match="both included"):
        annealing.annealed(log_start, Bump().log_density, start(generator), betas=betas[:-1], kernel=kernel)


def test_other_paths_and_kernels_of_each_density() -> None:
    """E exp(lw) = Z along any path, with a transition of its own at every density."""
    generator, end = torch.Generator().manual_seed(3), Bump().log_density

    def moved(b: float, x: Tensor) -> Tensor:
        return -0.5 * (1 + 3 * b) * (x - 2 * b).square().sum(-1) + b * math.log(3) - (1 - b) * 0.5 * math.log(2 * math.pi)

    kernels = [HamiltonianSteps(step_size=0.5 / math.sqrt(1 + 3 * j / 4)) for j in range(1, 4)]
    run = annealing.annealed(log_start, end, start(generator), betas=3, kernel=kernels, log_path=moved, steps=2, generator=generator)
    assert within(run.log_weights) and bool((run.acceptance > 0.9).all())
    with pytest.raises(fk.core.errors.ConfigError, match="3 densities in between; got 2"):
        annealing.annealed(log_start, end, start(generator), betas=3, kernel=kernels[:2])


@pytest.mark.parametrize("kernel", ["hmc", "ula"])
def test_smc_is_unbiased(kernel: str) -> None:
    """physics-D5: E exp(log_z) = Z over runs of SMC with resampling, within 4 standard errors."""
    options = {"name": kernel, "step_size": 0.3 if kernel == "hmc" else 0.1}
    normal, target = fk.distributions.StandardNormal((1,)).double(), Bump()
    runs = [
        fk.sampling.smc(
            normal, target, 500, betas=10, kernel=options, steps=1, pilot=0, threshold=0.9,
            generator=torch.Generator().manual_seed(seed), progress=False,
        )
        for seed in range(30)
    ]  # fmt: skip
    values = torch.tensor([run.log_z for run in runs]).exp()
    errors = torch.tensor([run.log_z_error for run in runs])
    assert abs(float(values.mean()) - Z) < 4 * float(values.std()) / math.sqrt(len(values))
    assert all(len(run.resampled) >= 2 and run.betas[-1] == 1 and run.roots < 500 for run in runs)
    assert 0.7 < float(errors.mean()) / float(values.log().std()) < 1.4  # the genealogy's error is that of the runs


def test_smc_on_many_well() -> None:
    """physics-D6: log Z of ManyWell d = 8 from N(0, 2^2) to 0.1 with 4096 particles."""
    wide, target = fk.distributions.DiagonalNormal((8,), scale=2.0), fk.targets.ManyWell(8)
    run = fk.sampling.smc(wide, target, 4096, generator=torch.Generator().manual_seed(0), progress=False)
    assert abs(run.log_z - target.log_normalizer) < 0.1 and run.log_z_error < 0.1
    assert run.resampled and run.ess > 0.3
    right, error = run.means(lambda x: (x[:, ::2] > 0).double())
    assert bool(((right - 0.84431).abs() < 4 * error).all()) and float(error.max()) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "steps"), [("hmc", 2), ("mala", 5)])
def test_smc_on_many_well_of_other_kernels(kernel: str, steps: int) -> None:
    """physics-D6 over five seeds: a root mean square error below 0.1, and errors that say so."""
    wide, target = fk.distributions.DiagonalNormal((8,), scale=2.0), fk.targets.ManyWell(8)
    runs = [fk.sampling.smc(wide, target, 4096, kernel=kernel, steps=steps, generator=torch.Generator().manual_seed(s), progress=False) for s in range(5)]
    gaps = torch.tensor([(run.log_z - target.log_normalizer) for run in runs])
    assert float(gaps.square().mean().sqrt()) < 0.1
    assert all(abs(float(gap)) < 4 * run.log_z_error for gap, run in zip(gaps, runs, strict=True))


def test_pilot_finds_temperatures_and_steps() -> None:
    """Every temperature keeps the share asked for, every step size is accepted about as often as asked for, and weights stay exact."""
    generator = torch.Generator().manual_seed(4)
    found = plan(log_start, Bump().log_density, start(generator, 1000), kernel=HamiltonianSteps(), share=0.8, generator=generator)
    assert found.betas[0] == 0 and found.betas[-1] == 1 and 3 <= len(found.betas) <= 12 and len(found.kernels) == len(found.betas) - 2
    run = annealing.annealed(log_start, Bump().log_density, start(generator), betas=found.betas, kernel=found.kernels, generator=generator)
    assert within(run.log_weights)
    # in one dimension nearly all paths are accepted up to the limit of stability: in 20 the step size decides
    generator.manual_seed(5)
    x = torch.randn(512, 20, generator=generator)

    def narrow(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1)

    def narrower(x: Tensor) -> Tensor:
        return 1.2 * narrow(x)

    for kernel in (HamiltonianSteps(step_size=1e-3), AdjustedLangevin(step_size=1.0), RandomWalk(step_size=5.0)):
        found = plan(narrow, narrower, x, kernel=kernel, betas=2, generator=generator)
        run = annealing.annealed(narrow, narrower, x, betas=2, kernel=found.kernels, generator=generator)
        assert kernel.target_acceptance is not None and bool((run.acceptance - kernel.target_acceptance).abs().max() < 0.2)


def test_annealed_from_a_flow() -> None:
    """AIS improves on the flow's own weights, and the last density is the target's where the flow is zero (a box)."""
    generator = torch.Generator().manual_seed(6)
    wide, target = fk.distributions.DiagonalNormal((2,), scale=2.0), fk.targets.ManyWell(2)
    plain = fk.sampling.importance(wide, target, 2000, generator=generator, progress=False)
    for kernel in ("hmc", "ula"):
        run = fk.sampling.annealed(wide, target, 2000, kernel=kernel, generator=generator, batch_size=700, progress=False)
        assert abs(run.log_z - target.log_normalizer) < 4 * run.log_z_error and run.acceptance.shape == (10,)
    run = fk.sampling.annealed(wide, target, 2000, betas=None, share=0.8, steps=3, generator=generator, progress=False)
    assert abs(run.log_z - target.log_normalizer) < 4 * run.log_z_error and run.ess > 1.5 * plain.ess
    box = fk.distributions.UniformBox(-3.0, 3.0, 2) if hasattr(fk.distributions, "UniformBox") else wide
    run = fk.sampling.annealed(box, target, 2000, generator=generator, progress=False)
    assert abs(run.log_z - target.log_normalizer) < 4 * run.log_z_error
