"""Manifolds and their geodesics against closed forms (continuous-C.2, C.10.9)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowkit.core.domain import SO3, Manifold, Sphere, Torus
from flowkit.distributions import UniformOn, VonMises, VonMisesFisher

MANIFOLDS = {"circle": Sphere(1), "sphere": Sphere(2), "sphere4": Sphere(4), "torus": Torus(2), "rotations": SO3()}
each = pytest.mark.parametrize("manifold", [pytest.param(m.double(), id=name) for name, m in MANIFOLDS.items()])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ambient(manifold: Manifold, n: int, seed: int) -> Tensor:
    return torch.randn((n, *(size or 0 for size in manifold.event_shape)), generator=generator(seed), dtype=torch.float64)


# -- geometry ----------------------------------------------------------------------------------------------------


@each
def test_geodesics_join_their_ends(manifold: Manifold) -> None:
    """continuous-C.10.9: the geodesic is at x0 and x1 at its ends to rounding, on the manifold between, at constant speed |log|."""
    x0, x1 = manifold.uniform(200, generator(1)), manifold.uniform(200, generator(2))
    t = torch.rand(200, generator=generator(3), dtype=torch.float64)
    assert float((manifold.distance(manifold.geodesic(x0, x1, 0.0), x0)).max()) < 1e-7  # distances near 0 are square roots of rounding
    assert float((manifold.log(manifold.geodesic(x0, x1, 1.0), x1)).abs().max()) < 1e-13
    assert float((manifold.log(manifold.geodesic(x0, x1, 0.0), x0)).abs().max()) < 1e-13
    point, velocity = manifold.geodesic_with_velocity(x0, x1, t)
    assert bool(manifold.contains(point).all())
    torch.testing.assert_close(manifold.project_tangent(point, velocity), velocity.expand_as(point), atol=1e-13, rtol=0)
    torch.testing.assert_close(manifold.squared_norm(point, velocity).sqrt(), manifold.distance(x0, x1), atol=1e-12, rtol=0)
    torch.testing.assert_close(manifold.distance(x0, point), t * manifold.distance(x0, x1), atol=1e-7, rtol=1e-9)


@each
def test_velocity_is_the_derivative(manifold: Manifold) -> None:
    """The closed-form target is the derivative of the geodesic in time: forward mode (JVP of the geodesic) to 1e-12."""
    x0, x1 = manifold.uniform(50, generator(1)), manifold.uniform(50, generator(2))
    t = torch.rand(50, generator=generator(3), dtype=torch.float64)
    wanted = torch.func.jvp(lambda s: manifold.geodesic(x0, x1, s), (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(manifold.geodesic_with_velocity(x0, x1, t)[1].expand_as(x0), wanted, atol=1e-12, rtol=0)


@each
def test_log_inverts_exp(manifold: Manifold) -> None:
    """log_x(exp_x(v)) = v below the injectivity radius pi, and distance is symmetric and at most the diameter."""
    x, y = manifold.uniform(200, generator(1)), manifold.uniform(200, generator(2))
    v = manifold.project_tangent(x, ambient(manifold, 200, 3))
    length = manifold.squared_norm(x, v).sqrt().reshape(-1, *([1] * len(manifold.event_shape)))
    for size in (1e-9, 1e-4, 0.09, 0.11, 1.0, 3.0):
        w = v * size / length
        torch.testing.assert_close(manifold.log(x, manifold.exp(x, w)), w, atol=2e-15 + 1e-13 * size / (math.pi - size), rtol=0)
    torch.testing.assert_close(manifold.distance(x, y), manifold.distance(y, x), atol=1e-12, rtol=0)
    assert float(manifold.distance(x, y).max()) <= math.pi * (math.sqrt(2) if isinstance(manifold, Torus) else 1) + 1e-12


def opposite(manifold: Manifold, x: Tensor) -> Tensor:
    """Points of the cut locus, exactly or to rounding."""
    if isinstance(manifold, Torus):
        return manifold.project(x + math.pi)
    if isinstance(manifold, SO3):
        axis = torch.nn.functional.normalize(torch.randn((len(x), 3), generator=generator(9), dtype=x.dtype), dim=-1)
        return x @ (2 * axis.unsqueeze(-1) * axis.unsqueeze(-2) - torch.eye(3, dtype=x.dtype))
    return -x


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_cut_locus(manifold: Manifold, dtype: torch.dtype) -> None:
    """At the cut locus and at the point itself: a shortest geodesic that arrives, no NaN in values or gradients."""
    x = manifold.uniform(50, generator(1)).to(dtype)
    x = torch.cat([x, manifold.safe_point(x[:1])])
    small = 1e-6 if dtype == torch.float64 else 2e-3
    for target, length in ((opposite(manifold, x), math.pi), (x, 0.0)):
        a, b = x.clone().requires_grad_(), target.clone().requires_grad_()
        v = manifold.log(a, b)
        point, velocity = manifold.geodesic_with_velocity(a, b, torch.full((len(x),), 0.4, dtype=dtype))
        far = length * (math.sqrt(2) if isinstance(manifold, Torus) else 1)
        torch.testing.assert_close(manifold.squared_norm(x, v).sqrt().detach(), torch.full((len(x),), far, dtype=dtype), atol=small, rtol=0)
        assert float(manifold.log(manifold.exp(x, v.detach()), target).abs().max()) < small
        gradients = torch.autograd.grad((point.sum() + velocity.square().sum() + manifold.distance(a, b).sum()), [a, b])
        assert all(bool(torch.isfinite(tensor).all()) for tensor in (v, point, velocity, *gradients))


@each
def test_projections(manifold: Manifold) -> None:
    """project is idempotent and the nearest point, with a right derivative; retract keeps points; the basis is orthonormal and tangent."""
    x = manifold.uniform(100, generator(1))
    near = x + 0.1 * ambient(manifold, 100, 2)
    found = manifold.project(near)
    assert bool(manifold.contains(found).all()) and bool(manifold.contains(manifold.retract(near)).all())
    torch.testing.assert_close(manifold.project(found), found, atol=1e-14, rtol=0)
    torch.testing.assert_close(manifold.retract(x), x, atol=1e-14, rtol=0)
    basis = manifold.tangent_basis(x)
    size, d = near[0].numel(), manifold.intrinsic_dim
    assert basis.shape == (100, size, d)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(d, dtype=torch.float64).expand(100, d, d), atol=1e-14, rtol=0)
    v = ambient(manifold, 100, 3)
    across = (basis @ (basis.mT @ v.reshape(100, size, 1))).reshape(v.shape)
    torch.testing.assert_close(manifold.project_tangent(x, v), across, atol=1e-14, rtol=0)
    if isinstance(manifold, Torus):
        return
    apart = (near - found).flatten(1).norm(dim=1)
    for seed in range(5):
        other = manifold.exp(found, manifold.project_tangent(found, 0.05 * ambient(manifold, 100, 10 + seed)))
        assert bool(((near - other).flatten(1).norm(dim=1) >= apart).all())
    tangent = torch.func.jvp(manifold.retract, (x,), (v,))[1]
    assert bool(torch.isfinite(tangent).all())


def test_nearest_rotation_derivative() -> None:
    """The derivative of the nearest rotation, at matrices on and off the manifold, agrees with central differences to 1e-8."""
    rotations = SO3().double()
    way = ambient(rotations, 20, 3)
    for x in (rotations.uniform(20, generator(1)), rotations.uniform(20, generator(1)) + 0.3 * ambient(rotations, 20, 2)):
        at = x.clone().requires_grad_()
        weights = ambient(rotations, 20, 4)
        (gradient,) = torch.autograd.grad((rotations.project(at) * weights).sum(), at)
        ahead, behind = (rotations.project(x + sign * 1e-6 * way) for sign in (1, -1))
        wanted = ((ahead - behind) / 2e-6 * weights).flatten(1).sum(1)
        torch.testing.assert_close((gradient * way).flatten(1).sum(1), wanted, atol=1e-8, rtol=0)


def test_rotations_compose() -> None:
    """Distance is the angle: invariant from left and right, and that of two rotations about one axis is the difference of angles."""
    rotations = SO3().double()
    a, b, c = (rotations.uniform(50, generator(seed)) for seed in (1, 2, 3))
    torch.testing.assert_close(rotations.distance(c @ a, c @ b), rotations.distance(a, b), atol=1e-12, rtol=0)
    torch.testing.assert_close(rotations.distance(a @ c, b @ c), rotations.distance(a, b), atol=1e-12, rtol=0)
    wanted = torch.acos(((a.mT @ b).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2)
    torch.testing.assert_close(rotations.distance(a, b), wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("manifold", [Sphere(1), Sphere(2), Sphere(3), Torus(2), SO3()], ids=repr)
def test_volume_and_uniform(manifold: Manifold) -> None:
    """The share of uniform draws within r of a point is vol(ball of r) / volume: closed form in each case, within four standard errors."""
    n, r = 100_000, 1.0
    x = manifold.double().uniform(n, generator(1))
    inside = float((manifold.distance(manifold.safe_point(x[:1]), x) < r).double().mean())
    balls = {
        "Sphere(dim=1)": 2 * r,
        "Sphere(dim=2)": 2 * math.pi * (1 - math.cos(r)),
        "Sphere(dim=3)": 2 * math.pi * (r - math.sin(r) * math.cos(r)),
        "Torus(dim=2)": math.pi * r**2,
        "SO3()": 8 * math.pi * (r - math.sin(r)) / 1.0,
    }
    share = balls[repr(manifold)] / manifold.volume
    assert abs(inside - share) < 4 * math.sqrt(share * (1 - share) / n)
    assert abs(manifold.log_volume - math.log(manifold.volume)) < 1e-15
    law = UniformOn(manifold)
    assert abs(float(law.log_prob(x[0])) + math.log(manifold.volume)) < 1e-12


@pytest.mark.parametrize(("dim", "concentration"), [(1, 5.0), (2, 0.01), (2, 50.0), (3, 4.0)])
def test_von_mises_fisher(dim: int, concentration: float) -> None:
    """The law integrates to one by uniform Monte Carlo, agrees with von Mises on the circle and with the closed form on S^2."""
    law = VonMisesFisher(dim, concentration=concentration).double()
    x = Sphere(dim).double().uniform(200_000, generator(1))
    with torch.no_grad():
        mass = law.log_prob(x).exp() * Sphere(dim).volume
    assert abs(float(mass.mean()) - 1) < 5 * float(mass.std()) / len(x) ** 0.5
    if dim == 1:
        angle = torch.atan2(x[:, 1], x[:, 0])
        other = VonMises((1,), concentration=concentration).double()
        other.load_state_dict({"mean": torch.tensor([math.pi / 2], dtype=torch.float64), "log_concentration": law.log_concentration.reshape(1)}, strict=False)
        torch.testing.assert_close(law.log_prob(x), other.log_prob(angle.unsqueeze(-1)), atol=1e-10, rtol=0)
    if dim == 2:
        k = law.log_concentration.detach().exp()
        wanted = k * (x[:, 2]) + k.log() - math.log(4 * math.pi) - torch.sinh(k).log()
        torch.testing.assert_close(law.log_prob(x), wanted, atol=1e-9, rtol=0)
