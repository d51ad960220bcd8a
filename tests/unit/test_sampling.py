"""Sampling and the metrics of configurations: weights, chains, pairings, and what each refuses."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit import evaluation
from flowkit.core.errors import ConfigError, FlowkitError, NonFiniteError, ShapeError
from flowkit.core.objective import Batch
from flowkit.core.target import Target
from flowkit.numerics.alignment import rotation_onto, squared_distances, superpose
from flowkit.numerics.assignment import assign, assign_each
from flowkit.numerics.chains import effective_sample_size, r_hat
from flowkit.numerics.importance import log_mean_weight, pareto_shape, resample
from flowkit.numerics.transitions import HamiltonianSteps
from flowkit.objectives._pairings import Pairing

QUIET: dict[str, Any] = {"progress": False}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Scaled(Target):
    """5 N(x; 0, s^2) in two dimensions, with the faults that targets have."""

    event_shape = (2,)

    def __init__(self, fault: str = "", scale: float = 1.0) -> None:
        super().__init__()
        self.fault, self.scale = fault, scale

    def log_density(self, x: Tensor) -> Any:
        value = math.log(5) - 0.5 * (x / self.scale).square().sum(-1) - math.log(2 * math.pi * self.scale**2)
        hit = x[..., 0] > 1
        faults: dict[str, Callable[[], Any]] = {
            "nan": lambda: torch.where(hit, torch.nan, value),
            "inf": lambda: torch.where(hit, torch.inf, value),
            "shape": lambda: value[..., None],
            "detached": lambda: value.detach(),
            "numpy": lambda: value.detach().numpy(),
            "nowhere": lambda: value - torch.inf,
            "walls": lambda: torch.where(hit, -torch.inf, value),
            "": lambda: value,
        }
        return faults[self.fault]()


# -- importance ---------------------------------------------------------------------------------------------


def test_importance_report() -> None:
    """ess, log Z, bounds and expectations of normals, all known: E w^2 / (E w)^2 = s^4 / (2 s^2 - 1) for widths 1 and s in two dimensions."""
    proposal = fk.distributions.DiagonalNormal((2,), scale=1.3)
    report = fk.sampling.importance(proposal, Scaled(), 40_000, batch_size=7000, generator=seeded(), **QUIET)
    assert report.ess == pytest.approx((2 * 1.3**2 - 1) / 1.3**4, abs=0.01)
    assert abs(report.log_z - math.log(5)) < 4 * report.log_z_error < 0.05
    divergence = 1.3**2 - 1 - 2 * math.log(1.3)  # KL(proposal | target)
    assert abs(report.elbo - (math.log(5) - divergence)) < 4 * report.elbo.standard_error
    assert report.eubo is None and report.k_hat < 0.5
    assert report.samples.shape == (40_000, 2) and float(report.weights.sum()) == pytest.approx(1.0)
    square = report.mean(lambda x: x.square().sum(-1))
    assert abs(square - 2) < 4 * square.standard_error < 0.1
    mean, error = report.means()
    assert mean.shape == error.shape == (2,) and bool((mean.abs() < 4 * error).all())
    drawn = report.resample(5000, generator=seeded(1))
    assert drawn.shape == (5000, 2) and float(drawn.var()) == pytest.approx(1.0, abs=0.06)
    assert "ess=" in repr(report) and "too high" not in repr(report)


def test_bounds_close_where_exact_samples_are() -> None:
    """elbo <= log Z <= eubo, from the target's own samples or those given, and equal where the proposal is the target."""
    wide, normal = fk.distributions.DiagonalNormal((2,), scale=1.3), fk.distributions.StandardNormal((2,))
    report = fk.sampling.importance(wide, normal, 5000, generator=seeded(), **QUIET)
    assert report.eubo is not None and report.elbo < report.log_z < report.eubo
    own = fk.sampling.importance(wide, Scaled(), 5000, exact=torch.randn(3000, 2, generator=seeded(1)), generator=seeded(), **QUIET)
    assert own.eubo is not None and abs(own.eubo - report.eubo - math.log(5)) < 0.1
    same = fk.sampling.importance(normal, normal, 1000, generator=seeded(), **QUIET)
    assert same.ess == pytest.approx(1.0) and same.log_z == pytest.approx(0, abs=1e-6) and same.elbo == pytest.approx(0, abs=1e-6)


def test_few_draws_are_warned_about() -> None:
    """physics-0: no effective sample size from fewer than 1000 draws without saying so."""
    normal = fk.distributions.StandardNormal((2,))
    with pytest.warns(UserWarning, match="999 draws are far too high; take at least 1000"):
        report = fk.sampling.importance(normal, Scaled(), 999, generator=seeded(), **QUIET)
    assert "too high" in repr(report)


def test_a_collapsed_population_is_warned_about() -> None:
    """Where resampling leaves few ancestors the errors are too small, and smc says so."""
    wide = fk.distributions.DiagonalNormal((2,), scale=3.0)
    with pytest.warns(UserWarning, match=r"only \d+ of 1000 draws have descendants left"):
        fk.sampling.smc(wide, Scaled(scale=0.05), 1000, betas=2, steps=1, generator=seeded(), **QUIET)


def test_clipping_is_off_and_leaves_log_z_alone() -> None:
    """clip sets the largest weights to 0 for expectations only: ess and log Z stay those of all proposals."""
    narrow = fk.distributions.DiagonalNormal((2,), scale=0.6)
    plain, clipped = (fk.sampling.importance(narrow, Scaled(), 4000, clip=clip, generator=seeded(), **QUIET) for clip in (None, 0.002))
    assert plain.ess == clipped.ess and plain.log_z == clipped.log_z and plain.clipped_ess == plain.ess
    assert int((clipped.weights == 0).sum()) == 8 and clipped.clipped_ess > 1.2 * clipped.ess
    assert plain.k_hat > 0.7  # weights of no variance, which the tail shows
    with pytest.raises(ConfigError, match=r"clip=0\.9999 leaves out all samples"):
        _ = fk.sampling.importance(narrow, Scaled(), 1000, clip=0.9999, generator=seeded(), **QUIET).weights


def test_flows_of_every_density() -> None:
    """Conditional flows take one context; path weights of stochastic layers are unbiased; a density on a manifold is refused."""
    flow = fk.flows.RealNVP(2, context_features=3, hidden=(8,), layers=2)
    here = torch.zeros(3)
    report = fk.sampling.importance(flow, Scaled(scale=1.2), 4000, context=here, generator=seeded(), **QUIET)
    assert abs(report.log_z - math.log(5)) < 4 * report.log_z_error
    with pytest.raises(ShapeError, match="the context of one condition"):
        fk.sampling.importance(flow, Scaled(), 1000, context=torch.zeros(4, 3), **QUIET)
    with pytest.raises(ShapeError, match="neither side declares one"):
        fk.sampling.importance(fk.distributions.StandardNormal((2,)), Scaled(), 1000, context=here, **QUIET)
    wide = fk.distributions.DiagonalNormal((2,), scale=1.5)
    annealing = fk.surjections.Annealing(wide, Scaled(), 4, step_size=0.4)
    stochastic = fk.Flow(wide, annealing)
    report = fk.sampling.importance(stochastic, Scaled(), 4000, generator=seeded(), **QUIET)
    assert stochastic.density == "lower_bound" and abs(report.log_z - math.log(5)) < 4 * report.log_z_error
    with pytest.raises(ConfigError, match="a start with an exact density; that of Flow is 'lower_bound'"):
        fk.sampling.annealed(stochastic, Scaled(), 1000, **QUIET)


def test_log_z_error_covers() -> None:
    """The delta method's error holds log Z in 90 to 99 % of 200 reports; the mean's error covers as well."""
    wide, generator, hits, means = fk.distributions.DiagonalNormal((2,), scale=1.4), seeded(), 0, 0
    for _ in range(200):
        report = fk.sampling.importance(wide, Scaled(), 1000, generator=generator, **QUIET)
        hits += abs(report.log_z - math.log(5)) < 1.96 * report.log_z_error
        first = report.mean(lambda x: x[:, 0] ** 2)
        means += abs(first - 1) < 1.96 * first.standard_error
    assert 180 <= hits <= 198 and 180 <= means <= 198


def test_weights_alone() -> None:
    """The shape of Pareto tails is found, resampling is unbiased, extremes do not overflow."""
    uniform = torch.rand(20_000, generator=seeded(), dtype=torch.float64)
    for shape in (0.2, 0.5, 0.9):
        assert pareto_shape(-shape * uniform.log()) == pytest.approx(shape, abs=0.15)
    assert pareto_shape(torch.zeros(1000)) == -math.inf and pareto_shape(torch.zeros(10)) == math.inf
    for width in (300.0, 1e5, 1e30):  # one weight is all there is: no tail that could be trusted
        assert pareto_shape(width * torch.randn(2000, generator=seeded(), dtype=torch.float64)) > 10
    assert log_mean_weight(torch.full((10,), 1e4)) == (pytest.approx(1e4), 0.0)
    weights = torch.tensor([0.0, 1.0, 2.0, -math.inf])
    for scheme in ("systematic", "multinomial"):
        counts = torch.bincount(resample(weights, 100_000, scheme, seeded()), minlength=4) / 100_000  # type: ignore[arg-type]
        assert torch.allclose(counts.double(), torch.softmax(weights.double(), 0), atol=0.006) and counts[3] == 0


# -- chains -------------------------------------------------------------------------------------------------


def test_autocorrelation_of_a_known_process() -> None:
    """An autoregressive process of correlation 0.8 is worth (1 - 0.8) / (1 + 0.8) of its length; R-hat sees shifts and widths."""
    noise, x = torch.randn(4000, 8, 2, generator=seeded(), dtype=torch.float64), torch.zeros(4000, 8, 2, dtype=torch.float64)
    x[0] = noise[0]
    for t in range(1, 4000):
        x[t] = 0.8 * x[t - 1] + 0.6 * noise[t]
    assert (effective_sample_size(x) / x[..., 0].numel()).tolist() == pytest.approx([1 / 9, 1 / 9], rel=0.12)
    assert float(r_hat(x).max()) < 1.01
    spread = torch.linspace(0, 1, 8)[:, None]
    assert float(r_hat(x + spread).min()) > 1.05 and float(r_hat(x * (1 + 2 * spread)).min()) > 1.05
    assert bool(torch.isnan(effective_sample_size(torch.ones(100, 4))))


def test_chains_of_each_kind() -> None:
    """HMC, MALA and independence Metropolis-Hastings sample a normal; ULA misses its variance by 1 / (1 - h / 2)."""
    start = 3 * torch.randn(100, 2, generator=seeded())
    for chains in (
        fk.sampling.hmc(Scaled(), start, 100, warmup=80, leapfrog_steps=5, generator=seeded(), **QUIET),
        fk.sampling.langevin(Scaled(), start, 200, warmup=80, generator=seeded(), **QUIET),
        fk.sampling.independence(fk.distributions.DiagonalNormal((2,), scale=1.5), Scaled(), 200, chains=100, generator=seeded(), **QUIET),
    ):
        square = chains.mean(lambda x: x.square().sum(-1))
        assert abs(square - 2) < 4 * square.standard_error < 0.25, chains
        assert chains.samples.shape[1:] == (100, 2) and 0.3 < float(chains.acceptance.mean()) < 0.99
        assert float(chains.r_hat.max()) < 1.05 and float(chains.autocorrelation_time.min()) > 0.2
    biased = fk.sampling.langevin(Scaled(), start, 300, method="ula", warmup=30, step_size=0.5, generator=seeded(), **QUIET)
    assert float(biased.flat.var()) == pytest.approx(1 / (1 - 0.5 / 2), abs=0.05) and biased.kernel.step_size == 0.5  # type: ignore[union-attr]


def test_independence_acceptance() -> None:
    """Proposals of the target itself are always accepted, and the chain is then as good as independent draws."""
    normal = fk.distributions.StandardNormal((2,))
    run = fk.sampling.independence(normal, Scaled(), 300, chains=16, batch_size=1000, generator=seeded(), **QUIET)
    assert float(run.acceptance.min()) == 1.0 and run.autocorrelation_time.tolist() == pytest.approx([1, 1], abs=0.15)


def test_diagnostics_of_too_little() -> None:
    """One sample, three steps, chains that never move: no error bars of 0 and no R-hat of 0."""
    wide = fk.distributions.DiagonalNormal((2,), scale=1.5)
    with pytest.warns(UserWarning, match="far too high"):
        one = fk.sampling.importance(wide, Scaled(), 1, generator=seeded(), **QUIET)
    assert math.isnan(one.log_z_error) and math.isnan(one.mean(lambda x: x[:, 0]).standard_error)
    population = fk.sampling.smc(wide, Scaled(), 1, betas=2, generator=seeded(), **QUIET)
    assert math.isnan(population.log_z_error) and math.isnan(population.elbo.standard_error)
    start = torch.zeros(3, 2)
    assert "fewer than 4 steps" in repr(fk.sampling.hmc(Scaled(), start, 3, warmup=0, generator=seeded(), **QUIET))
    assert "nothing varies" in repr(fk.sampling.hmc(Scaled(), start, 20, warmup=0, step_size=1e4, generator=seeded(), **QUIET))
    sizes = torch.tensor([0.1, 0.2], dtype=torch.float64)
    assert fk.sampling.hmc(Scaled(), start, 20, warmup=5, step_size=sizes, generator=seeded(), **QUIET).samples.dtype == torch.float32


def test_bars_are_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe or a log file gets no progress bar."""
    fk.sampling.importance(fk.distributions.StandardNormal((2,)), Scaled(), 2000, batch_size=500, generator=seeded())
    assert capsys.readouterr() == ("", "")


# -- bad input ----------------------------------------------------------------------------------------------

SAMPLERS: dict[str, Callable[[Target], Any]] = {
    "importance": lambda target: fk.sampling.importance(fk.distributions.StandardNormal((2,)), target, 1000, generator=seeded(), **QUIET),
    "annealed": lambda target: fk.sampling.annealed(fk.distributions.StandardNormal((2,)), target, 1000, betas=2, generator=seeded(), **QUIET),
    "smc": lambda target: fk.sampling.smc(fk.distributions.StandardNormal((2,)), target, 1000, betas=2, generator=seeded(), **QUIET),
    "independence": lambda target: fk.sampling.independence(fk.distributions.StandardNormal((2,)), target, 20, generator=seeded(), **QUIET),
    "hmc": lambda target: fk.sampling.hmc(target, torch.randn(64, 2, generator=seeded()), 3, warmup=2, generator=seeded(), **QUIET),
    "langevin": lambda target: fk.sampling.langevin(target, torch.randn(64, 2, generator=seeded()), 3, warmup=2, generator=seeded(), **QUIET),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("nan", NonFiniteError, r"\d+ of \d+ (log-weights are NaN|starting points have a log-density that is NaN)"),
        ("inf", NonFiniteError, r"\d+ of \d+ (log-weights are NaN|starting points)"),
        ("nowhere", NonFiniteError, r"all \d+ weights are 0|no event has a positive density|64 of 64 starting points"),
        ("shape", ShapeError, r"expected Scaled.log_density to give one value an event, shape \(\d+,\); got shape \(\d+, 1\)"),
        ("numpy", ShapeError, "expected Scaled.log_density to give one value an event.*got ndarray"),
        ("detached", ConfigError, "gradient"),
    ],
)
def test_faulty_energies(sampler: str, fault: str, error: type[FlowkitError], message: str) -> None:
    """B-5: each fault of an energy is one clear error."""
    if fault == "detached" and sampler in ("importance", "independence"):
        SAMPLERS[sampler](Scaled(fault))  # they need no gradient
        return
    with pytest.raises(error, match=message) as raised:
        SAMPLERS[sampler](Scaled(fault))
    assert "\n" not in str(raised.value)


def test_walls_and_missing_gradients_are_no_faults() -> None:
    """A density of zero behind a wall, and random-walk steps without a gradient."""
    normal, share = fk.distributions.StandardNormal((2,)), 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    for kernel in ("hmc", "random_walk"):
        run = fk.sampling.smc(normal, Scaled("walls"), 2000, betas=3, kernel=kernel, generator=seeded(), **QUIET)
        assert abs(run.log_z - math.log(5 * share)) < 4 * run.log_z_error and bool((run.samples[run.weights > 0, 0] <= 1).all())
    run = fk.sampling.annealed(normal, Scaled("detached", 0.7), 2000, kernel="random_walk", generator=seeded(), **QUIET)
    assert abs(run.log_z - math.log(5)) < 4 * run.log_z_error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: fk.sampling.importance(q, Scaled(), 0), "importance: expected n to be an int >= 1"),
        (lambda q: fk.sampling.importance(q, Scaled(), 1000, clip=2.0), "share of the largest weights"),
        (lambda q: fk.sampling.importance(Scaled(), q, 1000), "importance: expected a distribution or a flow to draw from as flow; got the target Scaled"),
        (lambda q: fk.sampling.importance(q, lambda x: x, 1000), "expected a target, a distribution or a flow as target; got function"),
        (lambda q: fk.sampling.importance(q, fk.targets.ManyWell(4), 1000), r"flow has events \(2,\), target \(4,\)"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, kernel="hcm"), "no kernel named 'hcm'. Nearest: 'hmc'"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, kernel={"name": "mala", "leapfrog_steps": 3}), "kernel 'mala' has no option 'leapfrog_steps'"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, kernel={"name": "mala", "step_size": -1}), "step_size to be a finite number > 0"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, kernel={"name": "hmc", "jitter": "a"}), r"jitter in \[0, 1\); got 'a'"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, kernel=HamiltonianSteps), "got the class HamiltonianSteps. Build one"),
        (
            lambda q: fk.sampling.annealed(q, Scaled("walls"), 1000, kernel="ula", generator=seeded(), **QUIET),
            "where the density is 0, so they cannot be weighed",
        ),
        (lambda q: fk.sampling.importance(q, Scaled(), 1000, exact=torch.zeros(0, 2), **QUIET), r"exact samples \(M, \*event\), M >= 1"),
        (lambda q: fk.sampling.importance(q, Scaled(), 1000, **QUIET).mean(lambda x: 1.0), "expected f to give .* got float"),
        (lambda q: fk.sampling.importance(q, Scaled(), 1000, **QUIET).resample(scheme="residual"), "no scheme named 'residual'"),
        (lambda q: fk.sampling.hmc(Scaled(), torch.zeros(4, 2), 10, step_size=torch.ones(3), **QUIET), "step sizes that broadcast"),
        (lambda q: fk.sampling.hmc(fk.flows.RealNVP(2, context_features=1), torch.zeros(3, 2), 10), r"takes one. Fix it first: flow.condition\(context\)"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, betas=[0.0, 0.5]), "rise from 0 to 1, both included"),
        (lambda q: fk.sampling.annealed(q, Scaled(), 1000, betas=None, pilot=0), "betas=None needs a pilot"),
        (lambda q: fk.sampling.smc(q, Scaled(), 1000, threshold=1.5), "expected threshold to be a share"),
        (lambda q: fk.sampling.hmc(Scaled(), torch.zeros(2), 10), r"starting points \(C, \*event\)"),
        (lambda q: fk.sampling.hmc(Scaled(), torch.zeros(3, 4), 10), r"hmc: expected trailing shape \(2,\)"),
        (lambda q: fk.sampling.langevin(Scaled(), torch.zeros(3, 2), 10, method="mla"), "no method named 'mla'. Nearest: 'mala'"),
        (lambda q: fk.sampling.langevin(Quartic(), 9 * torch.ones(3, 2), 50, method="ula", step_size=0.5, progress=False), "left all bounds"),
    ],
)
def test_bad_arguments(call: Callable[[Any], Any], message: str) -> None:
    """B-5: each bad argument is one clear error."""
    with pytest.raises(FlowkitError, match=message) as raised:
        call(fk.distributions.StandardNormal((2,)))
    assert "\n" not in str(raised.value)


class Quartic(Target):
    """A density whose score grows too fast for unadjusted steps."""

    event_shape = (2,)

    def log_density(self, x: Tensor) -> Tensor:
        return -x.pow(4).sum(-1)


# -- metrics ------------------------------------------------------------------------------------------------


def test_energy_distance_of_sets() -> None:
    """physics-D10: E-W2 of identical sets is 0; a normal shifted by mu is mu away, to 2 %."""
    x, y = torch.randn(40_000, generator=seeded()), torch.randn(30_000, generator=seeded(1))
    assert evaluation.energy_wasserstein(x, x) == 0 and evaluation.energy_wasserstein(x, y + 3) == pytest.approx(3, rel=0.02)
    x, y = torch.randn(700, 2, generator=seeded()), torch.randn(700, 2, generator=seeded(1))
    assert evaluation.geometric_wasserstein(x, y + torch.tensor([3.0, 4.0])) == pytest.approx(5, rel=0.02)


def test_torus_wraps() -> None:
    """physics-D10: pi - 0.1 and -pi + 0.1 are 0.2 apart, on any branch, and pairs are matched."""
    near = torch.full((3, 1), math.pi - 0.1, dtype=torch.float64)
    assert evaluation.torus_wasserstein(near, -near) == pytest.approx(0.2)
    assert evaluation.torus_wasserstein(near + 4 * math.pi, -near) == pytest.approx(0.2)
    angles = torch.rand(200, 2, generator=seeded(), dtype=torch.float64) * 2 * math.pi - math.pi
    turned = angles[torch.randperm(200, generator=seeded(1))] + torch.tensor([0.03, -0.04]) - 2 * math.pi
    assert evaluation.torus_wasserstein(angles, turned) == pytest.approx(0.05, rel=1e-6)
    with pytest.raises(ConfigError, match="at most 10000 of each"):
        evaluation.torus_wasserstein(torch.zeros(10_001, 2), torch.zeros(10_001, 2))
    with pytest.raises(ShapeError, match="Take 2 of each"):
        evaluation.torus_wasserstein(torch.zeros(3, 2), torch.zeros(2, 2))


def test_alignment_finds_what_was_done() -> None:
    """A rotation, an order or both are undone; a mirror image is not; without alignment all of it is distance."""
    generator = seeded()
    x = torch.randn(8, 6, 3, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    q = q * torch.linalg.det(q).sign()
    turned, order = x @ q.T, torch.randperm(6, generator=generator)
    centred = x - x.mean(1, keepdim=True)
    assert torch.allclose(rotation_onto(centred, centred @ q.T)[0], q.expand(8, 3, 3)) and float(rotation_onto(centred, centred @ q.T)[1].max()) < 1e-12
    assert float(rotation_onto(centred, -centred)[1].min()) > 0.01
    distances = {align: evaluation.geometric_wasserstein(x, turned, align=align) for align in ("none", "rotation", "permutation", "both")}
    assert distances["rotation"] < 1e-6 and max(distances["permutation"], distances["both"]) < distances["none"]
    assert evaluation.geometric_wasserstein(x, x[:, order] + 1, align="permutation") < 1e-6 < 1 < evaluation.geometric_wasserstein(x, x[:, order] + 1)
    moved = superpose(turned + 2, x, "rotation")
    assert torch.allclose(moved.mean(1), (turned + 2).mean(1)) and torch.allclose(moved - moved.mean(1, keepdim=True), centred)
    costs = torch.rand(4, 5, 7, 7, generator=generator)
    assert torch.equal(assign_each(costs)[2, 3], assign(costs[2, 3]))
    with pytest.raises(ShapeError, match=r"configurations \(N, particles, d\)"):
        evaluation.geometric_wasserstein(torch.zeros(3, 6), torch.zeros(3, 6), align="both")


def test_ramachandran_divergence() -> None:
    """0 for identical sets, small for two draws, of the right size for wrapped normals, infinite for none that overlap."""
    x, y = (0.5 * torch.randn(50_000, 2, generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))
    assert evaluation.ramachandran_kl(x, x) == pytest.approx(0, abs=1e-3) and evaluation.ramachandran_kl(x, y, bins=20) < 0.01
    shifted = evaluation.ramachandran_kl(x, y + torch.tensor([0.3, 0.0]), bins=20)
    assert shifted == pytest.approx(0.5 * 0.3**2 / 0.5**2, rel=0.15)  # |shift|^2 / (2 sigma^2)
    assert evaluation.ramachandran_kl(x, y + 2 * math.pi, bins=20) == pytest.approx(evaluation.ramachandran_kl(x, y, bins=20))
    assert evaluation.ramachandran_kl(x, y * 0.01 + 3) > 5


# -- equivariant optimal transport --------------------------------------------------------------------------


def clusters() -> Tensor:
    """640 mean-free configurations of LJ13, (640, 13, 3)."""
    root = os.environ.get("FLOWKIT_DATA")
    path = Path(root or "") / "particles" / "val_split_LJ13-1000.npy"
    if not root or not path.is_file():
        pytest.skip("needs particles/val_split_LJ13-1000.npy under $FLOWKIT_DATA")
    return torch.from_numpy(np.load(path)[:640]).reshape(-1, 13, 3).float()


def test_equivariant_pairs_are_nearest() -> None:
    """physics-D12: equivariant OT <= OT <= independent, in each of 20 batches of LJ13."""
    generator, x = seeded(), clusters()
    base = fk.distributions.MeanFreeNormal(13, 3)
    for x1 in x.split(32):
        x0 = base.sample((32,), generator=generator)
        costs = []
        for name in ("equivariant_ot", "ot", "independent"):
            pairing = Pairing.of(name, "test")
            rows = pairing.rows(x0, x1, None, generator)
            costs.append(float((pairing.aligned(x0 if rows.noise is None else x0[rows.noise], x1) - x1).square().sum()))
        assert costs[0] < 0.5 * costs[1] < costs[1] < costs[2]


def test_equivariant_pairing_of_flow_matching() -> None:
    """Costs never exceed plain ones, noise stays in its orbit, and other events are refused by name."""
    generator = seeded()
    x0, x1 = torch.randn(12, 5, 3, generator=generator), torch.randn(12, 5, 3, generator=generator)
    assert bool((squared_distances(x0, x1) <= squared_distances(x0, x1, "none") + 1e-4).all())
    assert torch.allclose(squared_distances(x0, x1, "none"), torch.cdist(x0.flatten(1), x1.flatten(1)).square(), atol=1e-3)
    moved = superpose(x0, x1)
    pairwise = [torch.cdist(part, part).flatten(1).sort().values for part in (x0, moved)]
    assert torch.allclose(*pairwise, atol=1e-5) and torch.allclose(moved.mean(1), x0.mean(1), atol=1e-6)
    flat = fk.flows.ContinuousFlow(6, hidden=(8,))
    with pytest.raises(ShapeError, match=r"expected events \(N, d\), N alike particles; got \(6,\)"):
        fk.objectives.FlowMatching("equivariant_ot").loss(flat, Batch(torch.randn(4, 6)), generator)
