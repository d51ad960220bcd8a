"""Trainings of continuous flows, gated on steps and seed; benchmarks/continuous_2d.py writes their table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from flowkit import fit
from flowkit.flows import ContinuousFlow
from flowkit.objectives import FlowMatching

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import continuous_2d as plane


def test_likelihood_learns() -> None:
    """A short run of continuous-D.8.5, far below the Gaussian's 4.4 nats, whose density integrates to one (D.8.4)."""
    trained = plane.train(plane.continuous(), plane.ContinuousLikelihood(), plane.eight_gaussians, 150)
    assert plane.test_nll(trained.flow, plane.eight_gaussians, 2000) < 3.4
    side = torch.linspace(-7, 7, 281)
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        mass = float(trained.flow.log_prob(grid).exp().sum()) * float(side[1] - side[0]) ** 2
    assert abs(mass - 1) <= 0.01


def test_flow_matching_through_fit_gives_a_density() -> None:
    """The trained model is a flow with log_prob, in data of another scale, standardised by fit."""
    x = 100 + 20 * plane.eight_gaussians(4000, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    flow = ContinuousFlow(2, hidden=(64, 64))
    fit(flow, x, FlowMatching(), max_steps=600, batch_size=256, lr=3e-3, seed=0, progress=False)
    flow.eval()
    with torch.no_grad():
        nll = float(-flow.log_prob(x[:1000]).mean())
        samples = flow.sample((2000,), generator=torch.Generator().manual_seed(1))
    gaussian = float(-torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x[:1000]).mean())
    assert nll < gaussian - 0.3
    assert torch.allclose(samples.mean(0), x.mean(0), atol=6) and torch.allclose(samples.std(0), x.std(0), rtol=0.15)


@pytest.mark.slow
def test_eight_gaussians() -> None:
    """continuous-D.8.5."""
    assert plane.likelihood()[0] <= 2.90
    assert plane.likelihood(divergence="hutchinson")[0] <= 2.95


@pytest.mark.slow
def test_kinetic_cost() -> None:
    """continuous-D.8.6."""
    plain, straight = plane.kinetic(0.0), plane.kinetic(0.1)
    assert straight[0] <= 0.8 * plain[0] and straight[1] <= plain[1] + 0.05


@pytest.mark.slow
def test_ot_flow() -> None:
    """continuous-D.8.8."""
    nll, error = plane.ot_flow()
    assert nll <= 2.95 and error <= 1e-3


@pytest.mark.slow
def test_learned_span() -> None:
    """continuous-B.7.6."""
    fixed, free, dear = plane.learned_span(0.0, mode="off"), plane.learned_span(0.0), plane.learned_span(0.5)
    assert fixed[0] == 1 and abs(free[0] - 1) < 0.05
    assert dear[0] < 0.6 and dear[1] <= fixed[1] + 0.03
