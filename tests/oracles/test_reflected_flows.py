"""Reflected flows against closed forms, containment and the shipped sampler (spec continuous-A.8, acceptance O-4)."""

from __future__ import annotations

import copy
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.core.domain import Ball, Box, HalfSpace, Polytope, Product, Simplex
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.distributions import TruncatedNormalOn, UniformOn
from flowkit.flows import ReflectedFlow
from flowkit.objectives import ReflectedFlowMatching
from flowkit.training.fit import fit

PENTAGON = [[math.cos(a), math.sin(a)] for a in (0.3, 1.6, 2.8, 4.1, 5.3)]
DOMAINS: dict[str, Any] = {
    "box": lambda: Box(-1.0, 1.0, 2),
    "half_space": lambda: HalfSpace([1.0, 2.0], 0.5),
    "ball": lambda: Ball(2.0, 3),
    "simplex": lambda: Simplex(4),
    "polytope": lambda: Polytope(PENTAGON, [1.0, 0.8, 1.2, 0.9, 1.1]),
    "product": lambda: Product([Box(0.0, 1.0, 1), Simplex(2), Ball(1.0, 2)]),
}


class Scaling(VectorField):
    """v = rate x."""

    def __init__(self, rate: float, dim: int = 2) -> None:
        super().__init__()
        self.rate, self.event_shape = rate, (dim,)

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return self.rate * x


class Given(VectorField):
    """v = the context: a straight path of its own for every sample."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.event_shape, self.context_shape = (dim,), (dim,)

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        return context + 0 * x


class Whirl(VectorField):
    """The divergence-free field of the stream function cos(pi x / 2) cos(pi y / 2), along the walls of [-1, 1]^2."""

    event_shape = (2,)

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        a, b = (torch.pi / 2 * x).unbind(-1)
        return torch.pi / 2 * torch.stack([-a.cos() * b.sin(), a.sin() * b.cos()], dim=-1)


def kolmogorov(uniform: Tensor) -> float:
    """Distance of values to the uniform law on [0, 1]."""
    ordered = uniform.double().sort().values
    grid = torch.arange(len(ordered) + 1, dtype=ordered.dtype) / len(ordered)
    return float(torch.maximum((ordered - grid[:-1]).abs(), (ordered - grid[1:]).abs()).max())


def seeded(offset: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(offset)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_density_of_a_contraction(dim: int) -> None:
    """continuous-A.8.8: v = -a x from the uniform law: log p = -d log 2 + a d on the shrunken box to 1e-6, and exit reported outside it."""
    rate = 0.5
    options: dict[str, Any] = {"field": Scaling(-rate, dim), "rtol": 1e-9, "atol": 1e-9}
    flow = ReflectedFlow(Box(-1.0, 1.0, dim), **options).double()
    end = math.exp(-rate)
    x = end * (2 * torch.rand((500, dim), generator=seeded(), dtype=torch.float64) - 1) * (1 - 1e-6)
    outer = x.clone()
    outer[:, 0] = torch.sign(outer[:, 0]) * (end + (1 - end) * torch.rand(500, generator=seeded(1), dtype=torch.float64)).clamp(min=end + 1e-4)
    wanted = -dim * math.log(2) + rate * dim
    log_prob, info = flow.log_prob_with_info(torch.cat([x, outer]))
    assert (log_prob[:500] - wanted).abs().max() <= 1e-6
    assert (log_prob[500:] == -torch.inf).all()
    assert info.exited.tolist() == [False] * 500 + [True] * 500 and info.exit_fraction == 0.5
    assert info.max_violation > 0.01 and info.hits_per_step > 0 and int(info.nfe.min()) > 0
    assert torch.equal(flow.log_prob(torch.cat([x, outer])), log_prob)
    nan = ReflectedFlow(Box(-1.0, 1.0, dim), on_exit="nan", **options).double().log_prob(outer)
    mirrored = ReflectedFlow(Box(-1.0, 1.0, dim), on_exit="reflect", **options).double().log_prob(outer)
    assert nan.isnan().all() and torch.isfinite(mirrored).all()
    assert flow.log_prob(torch.full((1, dim), 1.5, dtype=torch.float64)) == -torch.inf


def test_density_where_mass_is_pushed_into_the_wall() -> None:
    """v = +a x: samples stay inside, the part that never met a wall has log p = -d log 2 - a d, the share that did is told."""
    flow = ReflectedFlow(Box(-1.0, 1.0, 2), field=Scaling(0.5), rtol=1e-8, atol=1e-8).double()
    x, info = flow.sample_with_info(20_000, generator=seeded())
    assert flow.domain.contains(x).all()
    assert abs(info.exit_fraction - (1 - math.exp(-1.0))) < 0.015
    log_prob, back = flow.log_prob_with_info(x[:200])
    assert (log_prob + 2 * math.log(2) + 1.0).abs().max() < 1e-6 and back.exit_fraction == 0
    drawn, log_prob = flow.sample_and_log_prob(50, generator=seeded())
    assert (log_prob - flow.log_prob(drawn)).abs().max() < 1e-9


@pytest.mark.parametrize("solver", ["dopri5", "euler", "midpoint", "heun2", "heun3", "rk4"])
@pytest.mark.parametrize("name", DOMAINS)
def test_samples_stay_inside(name: str, solver: str) -> None:
    """continuous O-4: a field of random weights, stretched fivefold, drives samples against every wall; none ends outside (float32, tol=0)."""
    torch.manual_seed(0)
    domain = DOMAINS[name]()
    prior = "uniform" if name != "half_space" else "truncated_normal"
    flow = ReflectedFlow(domain, (16,), prior=prior, solver=solver, steps=None if solver == "dopri5" else 5, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        for parameter in flow.field.layers[-1].parameters():  # type: ignore[union-attr, operator]
            parameter.mul_(5)
    x, info = flow.sample_with_info(2000, generator=seeded())
    assert x.dtype == torch.float32 and domain.contains(x).all() and not x.isnan().any()
    assert info.exit_fraction > 0.02  # the walls were met
    assert torch.equal(flow.sample(2000, generator=seeded()), x)


@pytest.mark.parametrize("domain", [Box(-1.0, 1.0, 3), Ball(1.0, 4), Simplex(3)], ids=["box", "ball", "simplex"])
def test_sampler_preserves_the_uniform_law(domain: Domain) -> None:
    """continuous-A.8.2 through the shipped sampler (O-4): uniform draws on straight paths of normal velocity stay uniform, KS <= 0.01."""
    domain = copy.deepcopy(domain).double()
    dim = int(domain.event_shape[0])  # type: ignore[arg-type]
    flow = ReflectedFlow(domain, field=Given(dim), context_features=dim, solver="euler", steps=1).double()
    ways = torch.randn((200_000, dim), generator=seeded(1), dtype=torch.float64)
    x = flow.sample((), ways, seeded())
    assert x.shape == (200_000, dim) and domain.contains(x).all()
    if isinstance(domain, Box):
        assert kolmogorov(0.5 * (x[:, 0] + 1)) <= 0.01
    elif isinstance(domain, Ball):
        assert kolmogorov(x.norm(dim=1) ** dim) <= 0.01
    else:
        assert kolmogorov(1 - (1 - x[:, 0]) ** dim) <= 0.01


def test_whirl_keeps_the_uniform_law() -> None:
    """continuous-A.8.3 through the shipped sampler: 20 steps of rk4 along the walls, KS <= 0.01, density -d log 2 without exits."""
    flow = ReflectedFlow(Box(-1.0, 1.0, 2), field=Whirl(), solver="rk4", steps=20).double()
    x = flow.sample(100_000, generator=seeded())
    assert x.shape == (100_000, 2) and flow.domain.contains(x).all()
    assert kolmogorov(0.5 * (x[:, 0] + 1)) <= 0.01 and kolmogorov(0.5 * (x[:, 1] + 1)) <= 0.01
    log_prob, info = flow.log_prob_with_info(x[:1000])
    assert (log_prob + 2 * math.log(2)).abs().max() < 1e-6 and info.exit_fraction < 0.01


def test_guidance() -> None:
    """guided(1) and guided(0) are the conditional and the unconditional flow; a strong scale meets the walls and stays inside (A.5)."""
    torch.manual_seed(1)
    flow = ReflectedFlow(Box(-1.0, 1.0, 2), (16,), classes=3, solver="euler", steps=8)
    label, none = torch.tensor(2), torch.tensor(-1)
    assert torch.equal(flow.guided(1.0).sample(50, label, seeded()), flow.sample(50, label, seeded()))
    assert torch.equal(flow.guided(0.0).sample(50, label, seeded()), flow.sample(50, none, seeded()))
    x, info = flow.guided(15.0).sample_with_info(500, label, seeded())
    assert flow.domain.contains(x).all() and info.exit_fraction > 0.2
    assert isinstance(flow.guided(2.0), ReflectedFlow) and flow.guided(2.0).log_prob(x[:5], label).shape == (5,)
    quick = flow.with_solver(solver="dopri5", steps=None, rtol=1e-3, atol=1e-3)
    assert quick.domain.contains(quick.sample(50, label, seeded())).all()


@pytest.mark.parametrize("name", ["box", "ball", "simplex"])
def test_gradients_through_reflections(name: str) -> None:
    """The discrete adjoint of a mirrored solution equals autograd through every step, to 1e-10."""
    torch.manual_seed(2)
    found = []
    field = ReflectedFlow(DOMAINS[name](), (8,)).field
    for adjoint in ("discrete", "backprop"):
        flow = ReflectedFlow(DOMAINS[name](), field=copy.deepcopy(field), solver="heun3", steps=6, adjoint=adjoint).double()  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in flow.field.parameters():
                parameter.mul_(3)
        moved = flow.bijector.transport(flow.base.sample(200, generator=seeded()).double())  # type: ignore[union-attr, operator]
        assert int(moved.stats.hits.sum()) > 10
        (moved.value.sin().sum() + moved.log_det.sum()).backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in flow.field.parameters() if parameter.grad is not None]))
    assert (found[0] - found[1]).abs().max() <= 1e-10 * found[1].abs().max()


def test_projection_piles_up_and_reflection_does_not() -> None:
    """boundary="project" keeps samples inside with a share of them on the boundary, and refuses a density; "reflect" has no such share."""
    field = Scaling(0.5)
    share = {}
    for boundary in ("reflect", "project"):
        flow = ReflectedFlow(Box(-1.0, 1.0, 2), field=field, boundary=boundary, solver="euler", steps=10).double()
        x = flow.sample(20_000, generator=seeded())
        assert flow.domain.contains(x).all()
        share[boundary] = float((x.abs().amax(1) > 1 - 2.8e-5).double().mean())
    assert share["project"] > 0.5 and share["reflect"] < 0.003
    with pytest.raises(ConfigError, match="atoms"):
        flow.log_prob(x[:3])


def test_loss_is_flow_matching_on_chords() -> None:
    """continuous-A.2: the loss is |v(t, (1 - t) x0 + t x1) - (x1 - x0)|^2 with x0 from the prior, and only the prior differs."""
    domain = Ball(1.0, 2)
    flow = ReflectedFlow(domain, (8,))
    x1 = domain.uniform(64, seeded(3))
    value = ReflectedFlowMatching().loss(flow, Batch(x1), seeded(5)).value
    generator = seeded(5)
    x0 = flow.base.sample(64, generator=generator)
    t = torch.rand(64, generator=generator)
    wanted = (flow.field.velocity(t, torch.lerp(x0, x1, t[:, None]), None) - (x1 - x0)).square().mean()
    assert torch.allclose(value, wanted, rtol=1e-6)
    assert domain.contains(torch.lerp(x0, x1, t[:, None])).all()


def test_masses_of_truncated_normals() -> None:
    """log p_0 on [-1, 1]^d has the normaliser 0.6826895 (A.5); the other domains' masses agree with Monte Carlo, the draws with both."""
    assert math.isclose(math.exp(TruncatedNormalOn(Box(-1.0, 1.0, 1)).log_mass), 0.6826894921, abs_tol=1e-9)
    assert math.isclose(TruncatedNormalOn(Box(-1.0, 1.0, 3)).log_mass, 3 * math.log(0.6826894921), abs_tol=1e-8)
    z = torch.randn((400_000, 3), generator=seeded(), dtype=torch.float64)
    laws = {
        "half_space": TruncatedNormalOn(HalfSpace([1.0, 2.0, 0.5], 0.7), 0.3, 0.8),
        "ball": TruncatedNormalOn(Ball(1.5, 3), scale=0.9),
        "simplex": TruncatedNormalOn(Simplex(3)),
        "narrow_simplex": TruncatedNormalOn(Simplex(3), 0.1, 0.08),
        "product": TruncatedNormalOn(Product([Box(0.0, 2.0, 1), Ball(1.0, 2)])),
    }
    for name, law in laws.items():
        law = law.double()
        points = law.mean + law.deviation * z
        share = float(law.domain.contains(points).double().mean())
        error = (share * (1 - share) / len(z)) ** 0.5
        assert abs(math.exp(law.log_mass) - share) < 4.5 * error, name
        drawn, kept = law.sample(50_000, generator=seeded(1)), points[law.domain.contains(points)]
        assert law.domain.contains(drawn).all()
        spread = kept.std(0) * (1 / len(drawn) + 1 / len(kept)) ** 0.5
        assert ((drawn.mean(0) - kept.mean(0)).abs() < 4.5 * spread).all(), name
        assert ((drawn.std(0) / kept.std(0) - 1).abs() < 0.05).all(), name
    with pytest.raises(ConfigError, match="no known form"):
        TruncatedNormalOn(DOMAINS["polytope"]())
    with pytest.raises(ConfigError, match="unbounded"):
        UniformOn(HalfSpace([1.0], 0.0))


def wall_distance(domain: Domain, x: Tensor) -> Tensor:
    """Distance of points inside to the boundary."""
    if isinstance(domain, Box):
        return 1 - x.abs().amax(-1)
    if isinstance(domain, Ball):
        return domain.radius - x.norm(dim=-1)
    if isinstance(domain, Simplex):
        return torch.minimum(x.amin(-1), (1 - x.sum(-1)) / x.shape[-1] ** 0.5)
    assert isinstance(domain, Polytope)
    return domain.slack(x).amin(-1)


def pressed(domain: Domain, n: int, seed: int) -> Tensor:
    """Data whose density is highest near the boundary: normal points around places at the walls, drawn again until they are inside."""
    centre = {"Box": [0.85, 0.85], "Ball": [1.8, 0.0], "Simplex": [0.1, 0.85], "Polytope": [0.8, 0.3]}[type(domain).__name__]
    spread = 0.15 * (2.0 if isinstance(domain, Ball) else 0.7)
    kept, generator = [torch.zeros(0, 2)], seeded(seed)
    while sum(map(len, kept)) < n:
        x = torch.tensor(centre) + spread * torch.randn((2 * n, 2), generator=generator)
        kept.append(x[domain.contains(x)])
    return torch.cat(kept)[:n]


@pytest.mark.parametrize("name", ["box", "ball", "simplex", "polytope"])
@pytest.mark.parametrize("n", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_trained_samples_stay_inside_without_atoms(name: str, n: int) -> None:
    """continuous O-4: after training no draw lies outside (tol=0, float32), and the share within 1e-5 diameters of the wall is at most twice the data's.

    The share of few draws is uncertain: five standard errors of the counts are allowed beside the factor of two.
    """
    domain: Domain = {"box": Box(-1.0, 1.0, 2), "ball": Ball(2.0, 2), "simplex": Simplex(2), "polytope": DOMAINS["polytope"]()}[name]
    torch.manual_seed(0)
    flow = ReflectedFlow(domain, (32, 32), solver="heun3", steps=10)
    fit(flow, pressed(domain, 20_000, 0), ReflectedFlowMatching(domain), max_steps=400, batch_size=256, lr=5e-3, seed=0, progress=False)
    diameter = {"box": 8**0.5, "ball": 4.0, "simplex": 2**0.5, "polytope": 2.5}[name]
    near, near_data = 0, 0
    generator = seeded(7)
    for part in range(n // 100_000):
        x = flow.sample(100_000, generator=generator)
        assert domain.contains(x).all()
        near += int((wall_distance(domain, x.double()) < 1e-5 * diameter).sum())
        near_data += int((wall_distance(domain, pressed(domain, 100_000, 100 + part).double()) < 1e-5 * diameter).sum())
    assert near <= 2 * near_data + 5 * (near + 4 * near_data) ** 0.5


def test_trained_density_integrates_to_one() -> None:
    """The density of a trained flow, exits counted as none, integrates over the square to one less the share that was pushed into the wall."""
    domain = Box(-1.0, 1.0, 2)
    torch.manual_seed(0)
    flow = ReflectedFlow(domain, (32, 32), rtol=1e-4, atol=1e-4)
    fit(flow, pressed(domain, 20_000, 0), ReflectedFlowMatching(), max_steps=400, batch_size=256, lr=5e-3, seed=0, progress=False)
    line = (torch.arange(120) + 0.5) / 60 - 1
    log_prob, info = flow.log_prob_with_info(torch.cartesian_prod(line, line))
    _, drawn = flow.sample_with_info(5000, generator=seeded())
    mass = float(log_prob.exp().sum()) / 60**2
    assert drawn.exit_fraction < 0.05 and abs(mass - (1 - drawn.exit_fraction)) <= 0.03
    assert 0.1 < info.exit_fraction < 0.99  # data leave most of the square empty


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "least_outside"), [(2, 0.01), (10, 0.08)])
def test_corners_against_plain_flow_matching(dim: int, least_outside: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """continuous-A.8.7: after 4,000 steps nothing is outside where plain flow matching leaves 1 % (d = 2) and 8 % (d = 10); W2 within 0.08 of the floor."""
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    study = runpy.run_path(str(benchmarks / "reflected_2d.py"))
    reflected = [study["train_and_judge"]("reflected", dim, seed) for seed in range(3)]
    assert [outcome.outside for outcome in reflected] == [0.0] * 3
    assert sum(outcome.w2 - outcome.floor for outcome in reflected) / 3 <= 0.08
    assert all(outcome.near <= 2 * outcome.near_data + 2e-5 for outcome in reflected)
    assert study["train_and_judge"]("plain", dim, 0).outside >= least_outside
