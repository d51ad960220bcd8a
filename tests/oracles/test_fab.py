"""FAB against closed forms of Gaussians (physics-D7) and its training on a many-well (physics-D8)."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.objective import Batch
from flowkit.core.target import Target
from flowkit.numerics.mcmc import gradient
from flowkit.objectives import FAB
from flowkit.objectives._annealed_draws import AlphaPath
from flowkit.objectives.fab import cross_entropy


class Bell(Target):
    """exp(-(x - loc)^2 / (2 scale^2)), not normalised."""

    event_shape = (1,)

    def __init__(self, loc: float = 0.4, scale: float = 1.0) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * ((x[..., 0] - self.loc) / self.scale).square()


def gaussian(loc: float, scale: float) -> Any:
    """A flow that is a normal; its parameters are ``shift`` and ``log_scale`` of the map."""
    made: Any = fk.Flow(fk.distributions.StandardNormal((1,)), fk.bijectors.Affine((1,))).double()
    with torch.no_grad():  # in float64, which the constructor's numbers are not
        made.bijector.shift.fill_(loc)
        made.bijector.log_scale.fill_(math.log(scale))
    return made


def log_integral(target: Bell, flow: Any, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """log int p^alpha q^(1 - alpha), and mean and precision of that normal, by completing the square; differentiable in the flow."""
    m, log_s = flow.bijector.shift[0], flow.bijector.log_scale[0]
    precision = alpha / target.scale**2 + (1 - alpha) * torch.exp(-2 * log_s)
    slope = alpha * target.loc / target.scale**2 + (1 - alpha) * m * torch.exp(-2 * log_s)
    constant = alpha * target.loc**2 / target.scale**2 + (1 - alpha) * (m.square() * torch.exp(-2 * log_s) + 2 * log_s + math.log(2 * math.pi))
    return 0.5 * slope.square() / precision - 0.5 * constant + 0.5 * torch.log(2 * math.pi / precision), slope / precision, precision


def exact_draws(target: Bell, flow: Any, alpha: float, n: int) -> Tensor:
    _, mean, precision = log_integral(target, flow, alpha)
    return (mean + torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / precision.sqrt()).detach()


def slopes(value: Tensor, flow: Any) -> Tensor:
    return torch.cat(torch.autograd.grad(value, list(flow.parameters())))


def agrees(got: Tensor, want: Tensor) -> bool:
    return float(torch.cosine_similarity(got, want, dim=0)) > 0.999 and abs(float(got.norm() / want.norm()) - 1) < 0.02


@pytest.mark.parametrize("alpha", [2.0, 1.5, 0.5])
def test_loss_has_the_gradient_of_the_divergence(alpha: float) -> None:
    """physics-D7: with exact draws for annealed ones, cosine > 0.999 with the gradient of log int p^alpha q^(1 - alpha) / (alpha - 1), and its length.

    Draws of the divergence's own integrand and equal weights; then draws of q, weighed.
    """
    target, flow = Bell(), gaussian(-0.3, 1.4)
    want = slopes(log_integral(target, flow, alpha)[0] / (alpha - 1), flow)
    x = exact_draws(target, flow, alpha, 200_000)
    assert agrees(slopes(cross_entropy(flow.log_prob(x), torch.zeros(len(x), dtype=x.dtype)), flow), want)
    x = flow.sample(400_000, generator=torch.Generator().manual_seed(1))
    log_weights = alpha * (target.log_density(x) - flow.log_prob(x)).detach()
    assert agrees(slopes(cross_entropy(flow.log_prob(x), log_weights), flow), want)


@pytest.mark.parametrize("alpha", [2.0, 1.5])
def test_buffered_loss_has_the_gradient_of_the_divergence(alpha: float) -> None:
    """physics-D7: draws made with an older flow, from the buffer and corrected, give the present flow's gradient up to the ratio of the integrals."""
    target, old, new = Bell(), gaussian(-0.3, 1.4), gaussian(-0.1, 1.25)
    fab = FAB(target, alpha, buffer=200_000, updates_per_pass=1000)
    x = exact_draws(target, old, alpha, 200_000)
    fab.replay.add(x, torch.zeros(len(x)), old.log_prob(x).detach())
    fab.calls.fill_(1)  # no pass is due
    loss = fab.loss(new, Batch(size=100_000), torch.Generator().manual_seed(2))
    (now, _, _), (then, _, _) = log_integral(target, new, alpha), log_integral(target, old, alpha)
    assert agrees(slopes(loss.value, new), slopes(now / (alpha - 1), new) * torch.exp(now - then).detach())
    # what went back into the buffer: half of the weights refer to the new flow, half to the old
    refers_to_new = (fab.replay.log_probs - new.log_prob(x).detach()).abs() < 1e-12
    assert int(refers_to_new.sum()) == 100_000
    change = (1 - alpha) * (new.log_prob(x) - old.log_prob(x)).detach()
    torch.testing.assert_close(fab.replay.log_weights, torch.where(refers_to_new, change, torch.zeros_like(change)))


def test_adjustment_is_clipped_in_the_loss_only() -> None:
    target, old, new = Bell(), gaussian(0.0, 1.0), gaussian(4.0, 0.5)
    fab = FAB(target, buffer=64, clip=2.0)
    x = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]
    fab.replay.add(x, torch.zeros(64), old.log_prob(x).detach())
    fab.calls.fill_(1)
    loss = fab.loss(new, Batch(size=64))
    torch.testing.assert_close(loss.value, -(2.0 * new.log_prob(x)).mean())
    assert float(fab.replay.log_weights.min()) > 10


@pytest.mark.parametrize("alpha", [0.5, 1.5, 2.0, 3.0])
def test_gradient_between_the_ends(alpha: float) -> None:
    """physics-D7: ((1 - b) + b (1 - alpha)) log q + b alpha log p and its gradient, at every alpha, to 1e-10; the scores are closed forms."""
    target, flow = Bell(0.7, 0.6), gaussian(-0.5, 1.7)
    x = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]
    path = AlphaPath(flow, target, alpha, "test")
    log_q = -0.5 * ((x[:, 0] + 0.5) / 1.7).square() - math.log(1.7) - 0.5 * math.log(2 * math.pi)
    score_q, score_p = -(x + 0.5) / 1.7**2, -(x - 0.7) / 0.6**2
    for b in (0.2, 0.5, 1.0):
        c = (1 - b) + b * (1 - alpha)
        torch.testing.assert_close(path.at(b, x), c * log_q + b * alpha * target.log_density(x), atol=1e-10, rtol=0)
        torch.testing.assert_close(gradient(lambda y: path.at(b, y), x), c * score_q + b * alpha * score_p, atol=1e-10, rtol=0)  # noqa: B023


@pytest.mark.parametrize(("alpha", "transition"), [(2.0, "hmc"), (2.0, "metropolis"), (1.5, "hmc")])
def test_a_pass_is_unbiased(alpha: float, transition: Any) -> None:
    """Weights of 4,000 chains have the mean int p^alpha q^(1 - alpha), and weighed by (p / q)^(1 - alpha) the mean int p: within 4 standard errors.

    So does the second moment of x over the first of them. Of the flow's own draws ``flow_ess`` is (int p)^2 / int p^2 / q.
    """
    target, flow = Bell(0.4, 0.7), gaussian(-0.5, 1.2)
    fab = FAB(target, alpha, transition=transition, buffer=None, step_size=0.5, intermediates=3, acceptance=None, leapfrog_steps=3)
    drawn = fab.draw(flow, 4000, torch.Generator().manual_seed(0))
    log_i, mean, precision = (value.detach() for value in log_integral(target, flow, alpha))
    x, w = drawn.samples[:, 0], (drawn.log_weights - log_i).exp()
    log_z = math.log(0.7) + 0.5 * math.log(2 * math.pi)
    mass = (drawn.log_weights + (1 - alpha) * (target.log_density(drawn.samples) - drawn.log_probs) - log_z).exp()
    second = w * (x - mean).square() * precision
    for values in (w, mass, second):
        assert abs(float(values.mean()) - 1) < 4 * float(values.std()) / 4000**0.5
    assert abs(float(drawn.log_z) - log_z) < 0.05
    assert 0.3 < float(drawn.acceptance.min()) < 1.0 and float(drawn.lost) == 0.0
    if alpha == 2.0:
        assert float(drawn.flow_ess) == pytest.approx(math.exp(2 * log_z - float(log_i)), abs=0.03)


@pytest.mark.slow
def test_many_well_six(monkeypatch: pytest.MonkeyPatch) -> None:
    """physics-D8: ESS >= 0.6 and all 8 modes at 0.3 of their mass or more; a reverse-KL control finds fewer. Table: benchmarks/results/fab.md."""
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    study = runpy.run_path(str(folder / "fab.py"))
    fab, control = (study["many_well_six"](name, seed=0) for name in ("fab", "reverse_kl"))
    assert fab.ess >= 0.6 and fab.modes == 8
    assert control.modes < 8
