"""Gradient estimators of energy objectives against each other, against quadrature and at the optimum (physics-A)."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowkit.bijectors import Affine, ResidualOf
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Objective
from flowkit.core.target import Target
from flowkit.distributions import DiagonalNormal, StandardNormal
from flowkit.flows import NeuralSplineFlow, RealNVP
from flowkit.objectives import AlphaDivergence, ForwardKL, ImportanceWeighted, MaximumLikelihood, ReverseKL
from flowkit.targets import ManyWell

D = torch.float64


def perturbed(flow: Any, seed: int = 0, size: float = 0.2) -> Any:
    """The flow in float64, away from the identity."""
    flow, generator = flow.to(D), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(size * torch.randn(p.shape, dtype=D, generator=generator))
    return flow


def small(**options: Any) -> Flow:
    torch.manual_seed(0)
    return perturbed(RealNVP(2, layers=2, hidden=(4,), **options))


def gradient(objective: Objective, flow: nn.Module, batch: Batch, seed: int) -> Tensor:
    """The gradient of one loss in all of the flow's parameters, as one vector."""
    loss = objective.loss(flow, batch, torch.Generator().manual_seed(seed))
    parts = torch.autograd.grad(loss.value, list(flow.parameters()), allow_unused=True)
    return torch.cat([torch.zeros(p.numel(), dtype=D) if g is None else g.flatten() for g, p in zip(parts, flow.parameters(), strict=True)])


def worst(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def agree(found: Tensor, wanted: Tensor, relative: float = 0.02) -> None:
    """Two means of many draws: relative L2 and cosine of physics-A6."""
    assert float((found - wanted).norm() / wanted.norm()) < relative
    assert float(torch.cosine_similarity(found, wanted, dim=0)) > 0.999


# -- at the optimum -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "path_two_pass"])
def test_landing(kind: str) -> None:
    """physics-A5: with a frozen copy of the flow as target every sample's path gradient vanishes; that of "total" does not."""
    flow, reverse, forward, total = small(), [], [], []
    target: Any = copy.deepcopy(flow)
    objectives = [ReverseKL(target, gradient=kind), ForwardKL(target, gradient=kind), ReverseKL(target, gradient="total")]  # type: ignore[arg-type]
    for seed in range(32):
        x = target.sample(1, generator=torch.Generator().manual_seed(100 + seed))
        reverse.append(gradient(objectives[0], flow, Batch(size=1), seed))
        forward.append(gradient(objectives[1], flow, Batch(x), seed))
        total.append(gradient(objectives[2], flow, Batch(size=1), seed))
    assert float(torch.stack(reverse).abs().max()) < 1e-10
    assert float(torch.stack(forward).abs().max()) < 1e-10
    assert float(torch.stack(total).square().mean()) > 1e-4


def test_landing_of_weighted_samples() -> None:
    """At q = p the gradients of DReG, STL, the alpha-divergences and the score form with its baseline vanish too; that of IWAE does not."""
    flow = small()
    target: Any = copy.deepcopy(flow)
    for objective in (
        ImportanceWeighted(target, samples=4), ImportanceWeighted(target, samples=4, gradient="stl"), ForwardKL(target, gradient="dreg"),
        AlphaDivergence(target), AlphaDivergence(target, 0.5, gradient="score"), ReverseKL(target, gradient="score"),
    ):  # fmt: skip
        assert float(gradient(objective, flow, Batch(size=8), 1).abs().max()) < 1e-10, objective
    assert float(gradient(ImportanceWeighted(target, samples=4, gradient="iwae"), flow, Batch(size=8), 1).abs().max()) > 1e-2


class Density(nn.Module):
    """A module whose call is log q."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow.log_prob(x)


def test_total_has_fisher_covariance() -> None:
    """physics-A5: at the optimum the trace of the covariance of "total" is the Fisher information's over N (N = 4096, 200 draws)."""
    flow, n, draws = small(), 4096, 200
    target: Any = copy.deepcopy(flow)
    objective = ReverseKL(target, gradient="total")
    found = torch.stack([gradient(objective, flow, Batch(size=n), seed) for seed in range(draws)])
    x = target.sample(4096, generator=torch.Generator().manual_seed(7))
    density = Density(flow)
    parameters = {name: p.detach() for name, p in density.named_parameters()}
    score = torch.func.grad(lambda held, row: torch.func.functional_call(density, held, (row,)))
    each = torch.func.vmap(functools.partial(score, parameters))(x)
    fisher = sum(float(part.square().flatten(1).sum(1).mean()) for part in each.values()) / n
    assert float(found.var(0).sum()) == pytest.approx(fisher, rel=0.2)


# -- the same expectation, the same value ---------------------------------------------------------------------------


def mean_gradient(objective: Objective, flow: nn.Module, batches: Iterator[Batch], seed: int = 0) -> Tensor:
    return torch.stack([gradient(objective, flow, batch, seed + number) for number, batch in enumerate(batches)]).mean(0)


@pytest.mark.parametrize("kind", ["path", "path_two_pass", "score", "vargrad"])
def test_reverse_unbiased(kind: str) -> None:
    """physics-A6: the mean over 4e5 samples is that of "total", relative L2 < 2 % and cosine > 0.999."""
    flow: Any = small()
    target: Any = (ManyWell(2) if kind.startswith("path") else DiagonalNormal((2,), loc=0.5, scale=1.5)).to(D)  # without the energy's gradient: a quieter one
    sizes = [50_000] * 8
    found = mean_gradient(ReverseKL(target, gradient=kind), flow, (Batch(size=n) for n in sizes))  # type: ignore[arg-type]
    agree(found, mean_gradient(ReverseKL(target, gradient="total"), flow, (Batch(size=n) for n in sizes)))


def test_forward_unbiased() -> None:
    """physics-A6: "path" on 4e5 exact samples has the mean of maximum likelihood."""
    flow, generator = small(), torch.Generator().manual_seed(0)
    target: Any = DiagonalNormal((2,), loc=0.5, scale=1.5).to(D)
    rows = [target.sample(50_000, generator=generator) for _ in range(8)]
    found = mean_gradient(ForwardKL(target, gradient="path"), flow, (Batch(x) for x in rows))
    agree(found, mean_gradient(MaximumLikelihood(), flow, (Batch(x) for x in rows)))


def test_same_value() -> None:
    """physics-A7: at the same latents all estimators report one loss and one set of terms, to 1e-10."""
    flow, target = small(), ManyWell(2).to(D)
    kinds: Any = ("total", "path", "path_two_pass", "score", "vargrad")
    found = [ReverseKL(target, gradient=kind).loss(flow, Batch(size=256), torch.Generator().manual_seed(3)) for kind in kinds]
    found.append(ImportanceWeighted(target, samples=1).loss(flow, Batch(size=256), torch.Generator().manual_seed(3)))
    for loss in found:
        assert loss.value.item() == pytest.approx(found[0].value.item(), abs=1e-10)
        assert all(float(loss.terms[name]) == pytest.approx(float(term), abs=1e-10) for name, term in found[0].terms.items())
    x, forward = target.sample(256, generator=torch.Generator().manual_seed(4)), ("ml", "path", "path_two_pass")
    values = [ForwardKL(target, gradient=kind).loss(flow, Batch(x)).value.item() for kind in forward]  # type: ignore[arg-type]
    assert max(values) - min(values) < 1e-10 and values[0] == pytest.approx(-flow.log_prob(x).mean().item(), abs=1e-10)


def test_value_without_gradients() -> None:
    """Under no_grad, as in validation, the value is the same."""
    flow, target = small(), ManyWell(2).to(D)
    x = target.sample(64, generator=torch.Generator().manual_seed(0))
    for objective in (ReverseKL(target), ReverseKL(target, gradient="vargrad"), ForwardKL(target, gradient="path"), AlphaDivergence(target)):
        batch = Batch(x) if isinstance(objective, ForwardKL) else Batch(size=64)
        value = objective.loss(flow, batch, torch.Generator().manual_seed(1)).value
        with torch.no_grad():
            again = objective.loss(flow, batch, torch.Generator().manual_seed(1)).value
        assert value.item() == pytest.approx(again.item(), abs=1e-12)


# -- two ways to one number -----------------------------------------------------------------------------------------


class Tilted(Target):
    """A density of no symmetry."""

    event_shape = (3,)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * (x - 0.3).square().sum(-1) - 0.1 * x.pow(4).sum(-1) + (x[..., 0] * x[..., 1]).sin()


def flows() -> Iterator[tuple[str, Any]]:
    torch.manual_seed(0)
    yield "affine", RealNVP(3, layers=3, hidden=(8,))
    yield "spline", NeuralSplineFlow(3, layers=3, hidden=(8,), bins=4)
    yield "learned_base", Flow(DiagonalNormal((3,)), RealNVP(3, layers=2, hidden=(8,)).bijector)
    yield "conditional", RealNVP(3, context_features=2, layers=2, hidden=(8,))


@pytest.mark.parametrize(("label", "flow"), flows(), ids=lambda value: value if isinstance(value, str) else "")
def test_pull_back_is_drop_in(label: str, flow: Any) -> None:
    """physics-A8: the pull-back and the drop-in form of the forward path gradient agree to 1e-10; so do both of the reverse."""
    flow, target, generator = perturbed(flow), Tilted(), torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, dtype=D, generator=generator)
    context = torch.randn(64, 2, dtype=D, generator=generator) if label == "conditional" else None
    batch = Batch(x, context, extra={"weight": torch.rand(64, dtype=D, generator=generator)})
    assert worst(*(gradient(ForwardKL(target, gradient=kind), flow, batch, 0) for kind in ("path", "path_two_pass"))) < 1e-10  # type: ignore[arg-type]
    batch = Batch(x, context)
    assert worst(*(gradient(ReverseKL(target, gradient=kind), flow, batch, 0) for kind in ("path", "path_two_pass"))) < 1e-10  # type: ignore[arg-type]
    if context is None:
        assert worst(*(gradient(AlphaDivergence(target, gradient=kind), flow, batch, 0) for kind in ("path", "path_two_pass"))) < 1e-10  # type: ignore[arg-type]


def test_vargrad_is_score_with_leave_one_out_baseline() -> None:
    """Richter et al. (2020): the derivative of half the variance of log w is REINFORCE with leave-one-out baselines."""
    flow, target, batch = small(), ManyWell(2).to(D), Batch(size=32)
    assert worst(gradient(ReverseKL(target, gradient="vargrad"), flow, batch, 0), gradient(ReverseKL(target, gradient="score"), flow, batch, 0)) < 1e-10


def test_one_sample_groups_are_reverse_kl() -> None:
    """K = 1: DReG and STL are "path", IWAE is "total"."""
    flow, target, batch = small(), ManyWell(2).to(D), Batch(size=32)
    for kind, of in (("dreg", "path"), ("stl", "path"), ("iwae", "total")):
        found = gradient(ImportanceWeighted(target, samples=1, gradient=kind), flow, batch, 0)  # type: ignore[arg-type]
        assert worst(found, gradient(ReverseKL(target, gradient=of), flow, batch, 0)) < 1e-10  # type: ignore[arg-type]


# -- a Gaussian toy by quadrature -----------------------------------------------------------------------------------


LOC, SCALE = 0.7, 1.2


class Normal(Target):
    """An unnormalised standard normal of one dimension."""

    event_shape, log_normalizer = (1,), 0.5 * math.log(2 * math.pi)

    def log_density(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1)


def toy() -> Flow:
    """q = N(LOC, SCALE^2), both learned; wide enough for weights of finite variance."""
    return Flow(StandardNormal((1,)), Affine(shape=(1,), loc=LOC, scale=SCALE)).to(D)


def along_quadrature(value: Callable[[Tensor, Tensor], Tensor], flow: Flow, groups: int) -> Tensor:
    """The gradient of E[value(log w of the group)], latents by Gauss-Hermite quadrature with 60 nodes each."""
    nodes, weights = (torch.tensor(part, dtype=D) for part in np.polynomial.hermite_e.hermegauss(60))
    z = torch.stack([torch.stack(each) for each in itertools.product(nodes, repeat=groups)])
    mass = torch.stack([torch.stack(each).prod() for each in itertools.product(weights / weights.sum(), repeat=groups)])
    x = flow.to_data(z[..., None])
    log_w = Normal().log_density(x) - flow.log_prob(x)
    parts = torch.autograd.grad(value(log_w, mass), list(flow.parameters()))
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("kind", ["iwae", "dreg"])
def test_importance_weighted_against_quadrature(kind: str) -> None:
    """physics-A16: over 2e5 draws of K = 2 the mean gradient is the exact bound's, cosine > 0.999; that of "stl" is not its size."""
    flow, batch = toy(), Batch(size=100_000)
    exact = -along_quadrature(lambda log_w, mass: (mass * (log_w.logsumexp(-1) - math.log(2))).sum(), flow, 2)
    found = gradient(ImportanceWeighted(Normal(), samples=2, gradient=kind), flow, batch, 0)  # type: ignore[arg-type]
    agree(found, exact, 0.03)
    biased = gradient(ImportanceWeighted(Normal(), samples=2, gradient="stl"), flow, batch, 0)
    assert float((biased - exact).norm() / exact.norm()) > 0.1


@pytest.mark.parametrize("alpha", [-0.5, 0.5, 1.5, 2.0])
@pytest.mark.parametrize("kind", ["path", "total", "score"])
def test_alpha_against_quadrature(alpha: float, kind: str) -> None:
    """Value and gradient of every form are those of log(int p^alpha q^(1 - alpha)) / (alpha (alpha - 1))."""
    flow, batch, constant = toy(), Batch(size=400_000), alpha * (alpha - 1)
    exact = along_quadrature(lambda log_w, mass: (mass * (alpha * log_w[..., 0]).exp()).sum().log() / constant, flow, 1)
    loss = AlphaDivergence(Normal(), alpha, gradient=kind)  # type: ignore[arg-type]
    agree(gradient(loss, flow, batch, 0), exact, 0.03)
    p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(LOC, SCALE)
    grid = torch.linspace(-12, 12, 4001, dtype=D)
    mass = torch.trapezoid((alpha * p.log_prob(grid) + (1 - alpha) * q.log_prob(grid)).exp(), grid)
    value = loss.loss(flow, batch, torch.Generator().manual_seed(0)).value
    assert value.item() == pytest.approx(mass.log().item() / constant, rel=0.02)


def test_alpha_limits() -> None:
    """alpha -> 0 is the reverse and alpha -> 1 the forward divergence, in value and gradient."""
    flow, batch = toy(), Batch(size=100_000)
    reverse = gradient(ReverseKL(Normal()), flow, batch, 0)
    assert worst(gradient(AlphaDivergence(Normal(), 1e-6), flow, batch, 0), reverse) < 1e-4
    forward = gradient(ForwardKL(Normal(), gradient="dreg"), flow, batch, 0)
    near = AlphaDivergence(Normal(), 1 + 1e-6)
    assert worst(gradient(near, flow, batch, 0), forward) < 1e-3
    exact = math.log(SCALE) + (1 + LOC**2) / (2 * SCALE**2) - 0.5  # KL(N(0, 1) || q)
    assert near.loss(flow, batch, torch.Generator().manual_seed(0)).value.item() == pytest.approx(exact, rel=0.03)


def test_dreg_against_maximum_likelihood() -> None:
    """The weighted samples of the flow give the gradient of KL(p || q), whose likelihood form is exact for two normals."""
    flow = toy()
    nll = math.log(SCALE) + 0.5 * math.log(2 * math.pi) + (1 + LOC**2) / (2 * SCALE**2)
    x = torch.tensor(np.polynomial.hermite_e.hermegauss(40)[0], dtype=D)[:, None]
    weight = torch.tensor(np.polynomial.hermite_e.hermegauss(40)[1], dtype=D)
    exact = gradient(MaximumLikelihood(), flow, Batch(x, extra={"weight": 40 * weight / weight.sum()}), 0)
    objective = ForwardKL(Normal(), gradient="dreg")
    agree(gradient(objective, flow, Batch(size=200_000), 0), exact, 0.03)
    assert objective.loss(flow, Batch(size=200_000), torch.Generator().manual_seed(0)).value.item() == pytest.approx(nll, rel=0.01)


# -- densities that are estimated -----------------------------------------------------------------------------------


class Contraction(nn.Module):
    """g(z) = c tanh(R z + b), c < 0.7, R a rotation by 1 radian: its log-determinant is far from 0."""

    lipschitz, smooth = 0.7, True

    def __init__(self) -> None:
        super().__init__()
        turn = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
        self.register_buffer("turn", turn)
        self.bias, self.size = nn.Parameter(torch.tensor([0.3, -0.2])), nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor) -> Tensor:
        return 0.7 * self.size.sigmoid() * (z @ self.turn + self.bias).tanh()


def test_estimated_density_keeps_path_unbiased() -> None:
    """With a residual map's random series the mean path gradients are those of its exact log-determinant, in both directions."""
    net, base = Contraction(), StandardNormal((2,))
    target: Any = DiagonalNormal((2,), loc=0.5, scale=1.2).to(D)
    exact: Any = Flow(base, ResidualOf(net, (2,))).to(D)
    noisy: Any = Flow(base, ResidualOf(net, (2,), log_det="roulette")).to(D)
    assert noisy.density == "estimate"
    rows = target.sample((40, 200), generator=torch.Generator().manual_seed(0))
    for objective, batches in ((ReverseKL(target), [Batch(size=200)] * 40), (ForwardKL(target, gradient="path"), [Batch(x) for x in rows])):
        wanted = mean_gradient(objective, exact, iter(batches))
        found = mean_gradient(objective, noisy, iter(batches))  # at the same latents
        assert worst(found, wanted) > 1e-4  # the noise is there
        agree(found, wanted, 0.01)
