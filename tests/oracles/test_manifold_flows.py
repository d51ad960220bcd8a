"""Flows on manifolds and their densities against closed forms and grids (continuous-C.2, C.10.9)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import flowkit as fk
from flowkit.core.build import build
from flowkit.core.domain import SO3, Manifold, Sphere, Torus
from flowkit.core.objective import Batch
from flowkit.core.vector_field import VectorField
from flowkit.data import SphereEvents
from flowkit.distributions import VonMisesFisher
from flowkit.flows import RiemannianFlow
from flowkit.numerics.manifold_ode import controlled_transport, transport, velocity_and_divergence
from flowkit.objectives import RiemannianFlowMatching
from flowkit.objectives.riemannian_flow_matching import nearest_permutation

MANIFOLDS = {"circle": Sphere(1), "sphere": Sphere(2), "sphere4": Sphere(4), "torus": Torus(2), "rotations": SO3()}
each = pytest.mark.parametrize("manifold", [pytest.param(m.double(), id=name) for name, m in MANIFOLDS.items()])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the flow of a known field -----------------------------------------------------------------------------------


class Attraction(VectorField):
    """a' = -c sin a for the distance a to a pole, so tan(a / 2) shrinks by exp(-c t); on the torus for every angle."""

    def __init__(self, manifold: Manifold, strength: float = 1.3) -> None:
        super().__init__()
        self.manifold, self.strength = manifold, strength
        self.event_shape = manifold.event_shape

    def velocity(self, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        if isinstance(self.manifold, Torus):
            return -self.strength * torch.sin(x)
        if isinstance(self.manifold, SO3):
            return -self.strength * 0.5 * (x @ (x - x.mT))
        return self.strength * self.manifold.project_tangent(x, self.manifold.safe_point(x))

    def log_density(self, x: Tensor) -> Tensor:
        """Of uniform points after unit time, by the change of variables in the distance a alone."""
        e = math.exp(self.strength)
        if isinstance(self.manifold, Torus):
            end, around = x.abs(), 0
        elif isinstance(self.manifold, SO3):
            end, around = self.manifold.distance(self.manifold.safe_point(x), x).unsqueeze(-1), 2
        else:
            end, around = self.manifold.distance(self.manifold.safe_point(x), x).unsqueeze(-1), self.manifold.intrinsic_dim - 1
        start = 2 * torch.atan(torch.tan(end / 2) * e)
        slope = torch.log(torch.sin(start) / torch.sin(end))  # da0 / da1
        # volume between a and a + da: sin^(d-1) a on spheres, 1 - cos a = 2 sin^2(a / 2) for rotations, 1 on tori
        if isinstance(self.manifold, SO3):
            shell = around * torch.log(torch.sin(start / 2) / torch.sin(end / 2))
        else:
            shell = around * torch.log(torch.sin(start) / torch.sin(end))
        return (slope + shell).sum(-1) - math.log(self.manifold.volume)


@each
@pytest.mark.parametrize(("solver", "steps", "allowed"), [("rk4", 24, 1e-6), ("dopri5", None, 1e-6), ("dopri8", 6, 1e-7)])
def test_flow_of_a_known_field(manifold: Manifold, solver: str, steps: int | None, allowed: float) -> None:
    """log_prob, samples and both directions against the closed form of a conformal field on spheres, tori and rotations."""
    field = Attraction(manifold)
    flow = RiemannianFlow(manifold, field=field, solver=solver, steps=steps, rtol=1e-8, atol=1e-8).double()
    x, log_prob = flow.sample_and_log_prob((50,), generator=generator(1))
    x, log_prob = x.detach(), log_prob.detach()
    assert bool(manifold.contains(x).all())
    torch.testing.assert_close(log_prob, field.log_density(x), atol=allowed, rtol=0)
    torch.testing.assert_close(flow.log_prob(x), field.log_density(x), atol=allowed, rtol=0)
    z = flow.to_latent(x).detach()
    assert float(manifold.log(flow.to_data(z), x).abs().max()) < allowed
    path = flow.path(z[:5], [0.0, 0.3, 1.0])
    assert path.shape == (3, 5, *manifold.event_shape)
    assert float(manifold.log(path[-1], x[:5]).abs().max()) < 10 * allowed


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4), ("dopri5", 5)])
@pytest.mark.parametrize("manifold", [Sphere(2), SO3()], ids=repr)
def test_solver_order(manifold: Manifold, scheme: str, order: int) -> None:
    """Steps that end on the manifold keep the order of the method: halving them divides the error by about 2^order, place and log_det."""
    manifold = manifold.double()
    x = manifold.uniform(6, generator(1))
    turn = torch.randn(x[0].numel(), x[0].numel(), generator=generator(2), dtype=torch.float64)

    def velocity(t: Tensor, point: Tensor) -> Tensor:
        pull = (torch.sin(point.flatten(1) @ turn) + t).reshape(point.shape)
        return manifold.project_tangent(point, pull)

    exact = transport(velocity, manifold, x, scheme="dopri8", steps=24)
    errors = []
    for steps in (6, 12):
        found = transport(velocity, manifold, x, scheme=scheme, steps=steps)
        assert bool(manifold.contains(found.x).all())
        errors.append((float((found.x - exact.x).square().mean().sqrt()), float((found.log_det - exact.log_det).square().mean().sqrt())))
    for coarse, fine in zip(*errors, strict=True):
        assert order - 0.7 < math.log2(coarse / fine) < order + 1.8, (coarse, fine)


def test_divergence_closed_forms() -> None:
    """Sphere: div grad (a . x) = -d a . x and a rotation field has none; rotations: sum_i X_i w_i in the left-invariant frame."""
    for d in (1, 2, 4):
        sphere = Sphere(d).double()
        x, a = sphere.uniform(20, generator(1)), torch.arange(1.0, d + 2, dtype=torch.float64)
        skew = torch.randn(d + 1, d + 1, generator=generator(2), dtype=torch.float64)
        skew = skew - skew.T

        def gradient(y: Tensor, sphere: Sphere = sphere, a: Tensor = a) -> Tensor:
            return sphere.project_tangent(y, a)

        def rotating(y: Tensor, skew: Tensor = skew) -> Tensor:
            return y @ skew

        torch.testing.assert_close(velocity_and_divergence(gradient, sphere, x)[1], -d * (x @ a), atol=1e-13, rtol=0)
        torch.testing.assert_close(velocity_and_divergence(rotating, sphere, x)[1], torch.zeros(20, dtype=torch.float64), atol=1e-13, rtol=0)
    rotations = SO3().double()
    x, weight = rotations.uniform(20, generator(1)), torch.randn(9, 3, generator=generator(3), dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    axes = torch.stack([torch.linalg.cross(eye[i].expand(3, 3), eye, dim=-1).T for i in range(3)])  # axes[i] a = e_i x a

    def omega(y: Tensor) -> Tensor:
        return torch.sin(y.flatten(1) @ weight)

    wanted = sum(torch.func.jvp(lambda y: omega(y)[:, i], (x,), (x @ axes[i],))[1] for i in range(3))  # noqa: B023
    found = velocity_and_divergence(lambda y: y @ torch.einsum("bi,ijk->bjk", omega(y), axes), rotations, x)[1]
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


# -- densities on a grid -----------------------------------------------------------------------------------------


def sphere_grid(n: int = 48) -> tuple[Tensor, Tensor]:
    """Points and weights of a product rule on S^2, exact for polynomials of degree n."""
    import numpy as np

    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(n))
    angle = 2 * math.pi * torch.arange(2 * n, dtype=torch.float64) / (2 * n)
    z, phi = torch.meshgrid(nodes, angle, indexing="ij")
    x = torch.stack([(1 - z.square()).sqrt() * phi.cos(), (1 - z.square()).sqrt() * phi.sin(), z], dim=-1).reshape(-1, 3)
    return x, (weights.unsqueeze(1) * math.pi / n).expand(n, 2 * n).reshape(-1)


def torus_grid(n: int = 64) -> tuple[Tensor, Tensor]:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n - math.pi
    return torch.cartesian_prod(angle, angle), torch.full((n * n,), (2 * math.pi / n) ** 2, dtype=torch.float64)


def strong(flow: RiemannianFlow, speed: float = 1.0) -> RiemannianFlow:
    """A flow in float64 far from the identity: the root mean square of its velocity at time 0.5 is set."""
    flow = flow.double()
    x = flow.manifold.uniform(200, generator(4))
    context = torch.zeros(200, flow.context_features, dtype=torch.float64) if flow.context_features else None
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator(5), dtype=torch.float64))
        found = flow.field.velocity(torch.tensor(0.5), x, context).square().flatten(1).sum(1).mean().sqrt()
        last: Any = flow.field.net.last  # type: ignore[union-attr]
        for parameter in last.parameters():
            parameter.mul_(speed / found)
    return flow


@pytest.mark.parametrize(("manifold", "grid"), [(Sphere(2), sphere_grid), (Torus(2), torus_grid)], ids=["sphere", "torus"])
def test_density_integrates_to_one(manifold: Manifold, grid: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """continuous-C.10.9: a random flow far from the identity integrates to 1 within 1e-3 on a grid (bar 1e-2); samples lie on the manifold."""
    torch.manual_seed(0)
    flow = strong(RiemannianFlow(manifold, hidden=(32, 32), steps=20, octaves=1))
    x, weights = grid()
    with torch.no_grad():
        log_prob = flow.log_prob(x)
        drawn = flow.sample((500,), generator=generator(1))
        single = flow.float().sample((500,), generator=generator(1))
    assert float(log_prob.std()) > 0.5, "a flow next to the identity shows nothing"
    assert abs(float((log_prob.exp() * weights).sum()) - 1) < 1e-3
    if isinstance(manifold, Sphere):
        assert float((drawn.norm(dim=-1) - 1).abs().max()) < 1e-12
        assert float((single.norm(dim=-1) - 1).abs().max()) < 1e-6


def test_rotation_density_integrates_to_one() -> None:
    """A random flow on SO(3): the mean of p / uniform over 6,000 Haar draws is 1 within four standard errors, and within 0.05."""
    torch.manual_seed(0)
    flow = strong(RiemannianFlow(SO3(), hidden=(16,), steps=10, octaves=0))
    with torch.no_grad():
        x = flow.domain.uniform(6_000, generator(1))
        ratio = (flow.log_prob(x) + flow.manifold.log_volume).exp()
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert float(ratio.std()) > 0.3
    assert abs(float(ratio.mean()) - 1) < min(4 * error, 0.05)


def test_events_follow_their_law() -> None:
    """The synthetic events: their density integrates to one on a grid, and E[log p] of draws is its integral, within four standard errors."""
    data = SphereEvents(train_size=4000)
    x, weights = sphere_grid(200)
    log_density = data.log_density(x)
    assert abs(float((log_density.exp() * weights).sum()) - 1) < 1e-6
    drawn = data.log_density(data.train.x)
    wanted = float((log_density.exp() * log_density * weights).sum())
    assert abs(float(drawn.mean()) - wanted) < 4 * float(drawn.std()) / len(drawn) ** 0.5


# -- training ----------------------------------------------------------------------------------------------------


def test_flow_matching_learns_von_mises_fisher() -> None:
    """continuous-C.10.9: uniform to vMF by flow matching: mass on a grid 1 +- 0.01, KL(data || flow) below 0.02 nats of log 4 pi - H = 1.1."""
    law = VonMisesFisher(2, mean=torch.tensor([1.0, -1.0, 0.5]), concentration=8.0)
    x = law.sample(4096, generator=generator(1))
    torch.manual_seed(0)
    flow = RiemannianFlow(Sphere(2), hidden=(48, 48), steps=20)
    fk.fit(flow, x, RiemannianFlowMatching(), max_steps=400, batch_size=512, lr=1e-2, ema=0.98, seed=0, progress=False)
    held_out = law.sample(4000, generator=generator(2))
    grid, weights = sphere_grid(60)
    with torch.no_grad():
        gap = (law.log_prob(held_out) - flow.log_prob(held_out)).mean()
        mass = (flow.double().log_prob(grid).exp() * weights).sum()
    assert abs(float(mass) - 1) < 0.01
    assert float(gap) < 0.02
    assert float(gap) > -0.01


def test_loss_is_least_at_the_marginal_velocity() -> None:
    """The loss of one batch is the mean of |u - du/dt|^2 at the drawn times, in the metric: half the Frobenius norm for rotations."""
    flow = RiemannianFlow(SO3(), hidden=(8,))
    x = SO3().uniform(64, generator(1))
    loss = RiemannianFlowMatching().loss(flow, Batch(x), generator(3)).value
    same = generator(3)
    x0 = flow.base.sample(64, generator=same)
    t = torch.rand(64, generator=same)
    omega = SO3().log(x0, x)
    place = SO3().exp(x0, t.reshape(-1, 1, 1) * omega)
    carried = place @ x0.mT @ omega  # the same axis in the frame of the place
    wanted = 0.5 * (flow.field.velocity(t, place) - carried).square().sum((1, 2)).mean()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=0)


@each
def test_pairing_is_optimal(manifold: Manifold) -> None:
    """The permutation of least total squared geodesic distance, against SciPy on distances from the logarithm."""
    from scipy.optimize import linear_sum_assignment

    x0, x1 = manifold.uniform(40, generator(1)), manifold.uniform(40, generator(2))
    order = nearest_permutation(manifold, x0, x1)
    assert sorted(order.tolist()) == list(range(40))
    cost = torch.stack([manifold.distance(x0, point.expand_as(x0)) for point in x1]).square()
    torch.testing.assert_close(manifold.squared_distances(x1, x0), cost, atol=1e-9, rtol=0)
    best = cost[linear_sum_assignment(cost.numpy())].sum()
    torch.testing.assert_close(cost[torch.arange(40), order].sum(), best, atol=1e-9, rtol=0)


def test_solvers_and_gradients_agree() -> None:
    """Equal steps and error control give the same log_prob and the same gradient of it in the weights, conditional flows included."""
    torch.manual_seed(0)
    flow = strong(RiemannianFlow(Sphere(2), (8, 8), 2, steps=64, octaves=1))
    other = flow.with_solver(solver="dopri5", steps=None, rtol=1e-9, atol=1e-9)
    x, context = flow.domain.uniform(12, generator(1)).reshape(3, 4, 3), torch.randn(4, 2, generator=generator(2), dtype=torch.float64)
    found = []
    for each_flow in (flow, other):
        log_prob = each_flow.log_prob(x, context)
        found.append((log_prob.detach(), torch.autograd.grad(log_prob.sum(), list(flow.parameters()))))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=0)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_controlled_transport_returns() -> None:
    """There and back under error control."""
    sphere = Sphere(3).double()
    x = sphere.uniform(30, generator(1))

    def velocity(t: Tensor, y: Tensor) -> Tensor:
        return sphere.project_tangent(y, torch.sin(3 * y.roll(1, -1)) + t.unsqueeze(-1))

    there = controlled_transport(velocity, sphere, x, rtol=1e-10, atol=1e-10)
    back = controlled_transport(velocity, sphere, there.x, 1.0, 0.0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back.x, x, atol=1e-8, rtol=0)
    torch.testing.assert_close(back.log_det, -there.log_det, atol=1e-8, rtol=0)


def test_saved_and_loaded(tmp_path: Any) -> None:
    """A saved flow loads with the same density, its manifold written once."""
    torch.manual_seed(0)
    flow = RiemannianFlow(Torus(2), (8,), classes=3, steps=8)
    fk.save(flow, tmp_path / "flow")
    again = fk.load(tmp_path / "flow")
    x, label = flow.domain.uniform(5, generator(1)), torch.tensor([0, 1, 2, -1, 0])
    torch.testing.assert_close(again.log_prob(x, label), flow.log_prob(x, label), atol=0, rtol=0)
    made: Any = build({"name": "riemannian_flow", "domain": {"name": "so3"}, "hidden": [8]}, RiemannianFlow)
    assert repr(made.domain) == "SO3()"
