"""Mirrors of domains against naive loops, finite differences and invariants (spec continuous-A.8.1 to A.8.6)."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowkit.core.domain import Ball, Box, HalfSpace, Integers, MeanFree, Polytope, Product, Real, Simplex, Sphere
from flowkit.core.domain._reflection import MAX_HITS, Projected, require_reflection
from flowkit.core.errors import ConfigError, DomainError
from flowkit.numerics.ode import solve


def facets(dim: int, count: int, seed: int = 4) -> Polytope:
    """A random polytope around the origin, its pool of draws made once."""
    return copy.deepcopy(_facets(dim, count, seed))


@functools.cache
def _facets(dim: int, count: int, seed: int) -> Polytope:
    generator = torch.Generator().manual_seed(seed)
    normals = torch.randn((count, dim), generator=generator, dtype=torch.float64)
    made = Polytope(normals, 1 + torch.rand(count, generator=generator, dtype=torch.float64)).double()
    made.uniform(1)
    return made


DOMAINS: dict[str, Any] = {
    "box": lambda: Box(-1.0, 1.0, 5),
    "mixed_box": lambda: Box([0.0, -math.inf, -1.0, -math.inf], [math.inf, 2.0, 1.0, math.inf]),
    "image_box": lambda: Box(0.0, 1.0, (2, 3)),
    "half_space": lambda: HalfSpace([1.0, -2.0, 0.5], 0.7),
    "interval_ball": lambda: Ball(1.5, 1),
    "ball2": lambda: Ball(2.0, 2),
    "ball10": lambda: Ball(1.0, 10),
    "ball64": lambda: Ball(3.0, 64),
    "simplex1": lambda: Simplex(1),
    "simplex2": lambda: Simplex(2),
    "simplex5": lambda: Simplex(5),
    "simplex10": lambda: Simplex(10),
    "polytope": lambda: facets(10, 30),
    "octahedron": lambda: list(Polytope.examples())[1][1],
    "product": lambda: Product([Box(-1.0, 1.0, 1), Simplex(2), Ball(1.0, 2), Real((1,))]),
}
LENGTH = {"mixed_box": 3.0, "half_space": 3.0, "product": 2.0}


def inside(name: str, domain: Any, n: int, seed: int = 0) -> Tensor:
    """Uniform points, or projected normal ones where there is no uniform law."""
    generator = torch.Generator().manual_seed(seed)
    try:
        x: Tensor = domain.uniform(n, generator)
        return x
    except (DomainError, TypeError):
        like = domain.safe_point(torch.zeros(n, *domain.event_shape, dtype=torch.float64))
        return torch.lerp(like, domain.project(like + torch.randn(like.shape, generator=generator, dtype=torch.float64)), 0.9)


def steps(name: str, x: Tensor, seed: int = 1) -> Tensor:
    """Random directions, lengths up to three diameters."""
    generator = torch.Generator().manual_seed(seed)
    way = torch.randn(x.shape, generator=generator, dtype=x.dtype).flatten(1)
    longest = 3 * LENGTH.get(name, float((x.flatten(1).amax(0) - x.flatten(1).amin(0)).norm()))
    length = longest * torch.rand((len(x), 1), generator=generator, dtype=x.dtype)
    return (way / way.norm(dim=1, keepdim=True) * length).reshape(x.shape)


def mirror_matrix(folded: Any, x: Tensor) -> Tensor:
    """R of each event, from what ``carry`` does to the unit vectors: (n, D, D)."""
    event = x.shape[1:]
    basis = torch.eye(event.numel(), dtype=x.dtype).reshape(-1, *event)
    return torch.stack([folded.carry(unit.expand_as(x).clone()).flatten(1) for unit in basis], dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("name", DOMAINS)
def test_contained(name: str, dtype: torch.dtype) -> None:
    """continuous-A.8.1: 1e4 steps of up to three diameters end inside by contains(tol=0), without NaN, within the number of mirrors allowed."""
    domain = DOMAINS[name]().double()
    x = inside(name, domain, 10_000)
    dx = steps(name, x).to(dtype)
    domain, x = domain.to(dtype), x.to(dtype)
    x = x if name == "product" else domain.project(x)
    folded = domain.reflect(x, dx)
    assert not folded.x.isnan().any()
    assert domain.contains(folded.x).all()
    assert domain.contains(folded.x[::3].clone()).all()  # in a batch of another size too
    assert int(folded.hits.max()) <= MAX_HITS and int(folded.hits.min()) == 0 and folded.x.dtype == dtype
    still = folded.hits == 0
    end = (x + dx)[still]
    assert (folded.x[still] - end).abs().max() <= 64 * torch.finfo(dtype).eps * domain.scale * 10
    assert domain.contains(domain.project((x + dx)[:1000])).all()


@pytest.mark.parametrize("name", DOMAINS)
def test_carry_is_the_transpose(name: str) -> None:
    """carry is R^T: orthogonal, and for flat walls the transposed Jacobian of the folded end in dx; dx and the mirrored way run back to x."""
    domain = DOMAINS[name]().double()
    x = inside(name, domain, 200)
    dx = steps(name, x)
    folded = domain.reflect(x, dx)
    size = x[0].numel()
    mirrors = mirror_matrix(folded, x)  # row i: R^T e_i, so this is R
    assert (mirrors @ mirrors.mT - torch.eye(size, dtype=x.dtype)).abs().max() < 1e-12
    back = domain.reflect(folded.x, -(mirrors @ dx.flatten(1).unsqueeze(-1)).reshape(x.shape))
    assert (back.x - x).abs().max() < 1e-6 and (back.hits == folded.hits).float().mean() > 0.99
    if "ball" in name or name == "product":
        return
    step = 1e-6 * torch.eye(size, dtype=x.dtype).reshape(-1, *x.shape[1:])
    moved = torch.stack([(domain.reflect(x, dx + s).x - domain.reflect(x, dx - s).x).flatten(1) / 2e-6 for s in step], dim=-1)
    near = (moved - mirrors).abs().amax((1, 2)) < 1e-6
    assert near.double().mean() > 0.98  # the others are at a corner, where the next wall changes


@pytest.mark.parametrize("name", ["box", "half_space", "ball2", "ball10", "simplex5", "polytope", "octahedron"])
def test_gradient_of_a_fold(name: str) -> None:
    """autograd differentiates folded ends and carried velocities; flat walls give exactly R."""
    domain = DOMAINS[name]().double()
    x, v = inside(name, domain, 6), torch.randn(6, *domain.event_shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    dx = 0.5 * steps(name, x)

    def ends(start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        folded = domain.reflect(start, step)
        return folded.x, folded.carry(v)

    assert torch.autograd.gradcheck(ends, (x.requires_grad_(), dx.requires_grad_()), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dim", [1, 2, 3, 10])
def test_ball_against_a_loop(dim: int) -> None:
    """The closed form of the ball equals mirroring one chord after the other, ends and R."""
    ball = Ball(1.3, dim).double()
    x = ball.uniform(60, torch.Generator().manual_seed(0))
    dx = steps("ball", x)
    folded = ball.reflect(x, dx)
    mirrors = mirror_matrix(folded, x)
    for i in range(len(x)):
        place, rest, product, met = x[i], dx[i], torch.eye(dim, dtype=x.dtype), 0
        while float((place + rest).norm()) > 1.3:
            a, b, c = float(rest @ rest), float(place @ rest), float(place @ place) - 1.3**2
            share = (-b + math.sqrt(max(b * b - a * c, 0.0))) / a
            place = place + share * rest
            normal = place / place.norm()
            mirror = torch.eye(dim, dtype=x.dtype) - 2 * torch.outer(normal, normal)
            rest, product, met = (1 - share) * (mirror @ rest), mirror @ product, met + 1
        assert met == int(folded.hits[i])
        assert (folded.x[i] - place - rest).abs().max() < 1e-9 * (1 + met)
        assert (mirrors[i] - product).abs().max() < 1e-8 * (1 + met)


@pytest.mark.parametrize("name", ["box", "ball2", "ball10", "simplex2", "simplex5", "polytope", "octahedron"])
def test_measure_preserved(name: str) -> None:
    """continuous-A.8.2: uniform points moved by isotropic normal steps stay uniform; Kolmogorov distance at most 0.01 for 2e5 points."""
    domain = DOMAINS[name]().double()
    n = 200_000 if name != "polytope" else 40_000
    x = domain.uniform(n, torch.Generator().manual_seed(0))
    spread = 0.5 * float((x.amax(0) - x.amin(0)).norm()) / x.shape[1] ** 0.5
    moved = domain.reflect(x, spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)).x
    if name.startswith("ball"):
        found = (moved.norm(dim=1) / domain.radius) ** domain.dim
        assert kolmogorov(found, lambda v: v) <= 0.01
    elif name.startswith("simplex"):
        assert kolmogorov(moved[:, 0], lambda v: 1 - (1 - v) ** domain.dim) <= 0.01
    elif name == "box":
        assert kolmogorov(moved[:, 0], lambda v: 0.5 * (v + 1)) <= 0.01
    else:  # no marginal in closed form: as many fresh draws
        fresh = domain.uniform(n, torch.Generator().manual_seed(9))
        for way in torch.randn(4, x.shape[1], generator=torch.Generator().manual_seed(2), dtype=x.dtype):
            first, second = (moved @ way).sort().values, (fresh @ way).sort().values
            below = torch.searchsorted(second, first).double() / n
            assert float((below - torch.arange(n) / n).abs().max()) <= 1.95 * (2 / n) ** 0.5


def kolmogorov(values: Tensor, cdf: Any) -> float:
    ordered = cdf(values.sort().values)
    grid = torch.arange(len(ordered) + 1, dtype=ordered.dtype) / len(ordered)
    return float(torch.maximum((ordered - grid[:-1]).abs(), (ordered - grid[1:]).abs()).max())


def test_tangent_field_keeps_uniform() -> None:
    """continuous-A.8.3: a divergence-free field along the walls keeps the uniform law in 20 steps of rk4; no particle is lost."""
    box = Box(-1.0, 1.0, 2).double()
    x = box.uniform(200_000, torch.Generator().manual_seed(0))

    def field(t: Tensor, place: Tensor) -> Tensor:
        a, b = (torch.pi / 2 * place).unbind(-1)
        return torch.pi / 2 * torch.stack([-a.cos() * b.sin(), a.sin() * b.cos()], dim=-1)

    end = solve(field, x, (0.0, 1.0), method="rk4", steps=20, per_sample=True, boundary=box).ys[-1]
    assert end.shape == x.shape and box.contains(end).all()
    for axis in (0, 1):
        assert kolmogorov(end[:, axis], lambda v: 0.5 * (v + 1)) <= 0.01


@pytest.mark.parametrize("h", [0.1, 0.05, 0.025])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_skorokhod_limit(method: str, h: float) -> None:
    """continuous-A.8.4: v = 1 against a wall; exact min(x + t, 1); the mirrored error is h, the projected one rounding."""
    box, x = Box(-math.inf, 1.0, 1).double(), torch.zeros(1, 1, dtype=torch.float64)
    times = torch.linspace(0, 1.6, round(1.6 / h) + 1, dtype=torch.float64)
    exact = times.clamp(max=1.0)
    found = {}
    for rule in (box, Projected(box)):
        ys = solve(lambda t, y: torch.ones_like(y), x, times, method=method, steps=1, per_sample=True, boundary=rule).ys
        found[type(rule).__name__] = float((ys[:, 0, 0] - exact).abs().max())
    assert found["Projected"] < 1e-12
    if method == "euler":
        assert abs(found["Box"] - h) <= 1e-12
    assert found["Box"] <= h + 1e-12


def test_parity_of_the_box() -> None:
    """continuous-A.8.5: signs of the fold onto [-1, 1] at seven places."""
    box = Box(-1.0, 1.0, 1).double()
    z = torch.tensor([-3.5, -1.5, 0.0, 1.5, 2.9, 3.1, 5.2], dtype=torch.float64)[:, None]
    folded = box.reflect(torch.zeros_like(z), z)
    assert folded.carry(torch.ones_like(z)).flatten().tolist() == [1, -1, 1, -1, -1, 1, -1]
    assert folded.hits.tolist() == [2, 1, 0, 1, 1, 2, 3]
    assert torch.allclose(folded.x.flatten(), torch.tensor([0.5, -0.5, 0.0, 0.5, -0.9, -0.9, 0.8], dtype=torch.float64), atol=1e-14)


def test_inward_field_is_left_alone() -> None:
    """continuous-A.8.6: where the field points inward, dopri5 with mirrors takes the same steps to the same end as without."""
    ball = Ball(1.0, 3).double()
    x = ball.uniform(500, torch.Generator().manual_seed(0))

    def field(t: Tensor, place: Tensor) -> Tensor:
        return torch.sin(3 * place.roll(1, -1)) * (1 - place.square().sum(-1, keepdim=True)) - 0.5 * place

    plain, folded = (solve(field, x, (0.0, 1.0), per_sample=True, rtol=1e-7, atol=1e-7, boundary=wall) for wall in (None, ball))
    assert (plain.ys[-1] - folded.ys[-1]).abs().max() <= 1e-10
    assert torch.equal(plain.stats.accepted, folded.stats.accepted) and torch.equal(plain.stats.rejected, folded.stats.rejected)
    assert int(folded.stats.hits.sum()) == 0


def test_grazing_paths() -> None:
    """Paths that all but touch a sphere or slide into a narrow corner end inside, finite, where sliding along the wall would."""
    ball = Ball(1.0, 2).double()
    start = torch.tensor([[1.0 - 1e-12, 0.0]], dtype=torch.float64)
    folded = ball.reflect(start, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    assert folded.x[0].sub(torch.tensor([math.cos(1.0), math.sin(1.0)], dtype=torch.float64)).abs().max() < 1e-5
    assert int(folded.hits[0]) == MAX_HITS
    wedge = Polytope([[0.0, -1.0], [math.sin(0.02), math.cos(0.02)], [-1.0, 0.0]], [0.0, math.sin(0.02), 0.0]).double()
    x = wedge.uniform(2000, torch.Generator().manual_seed(0))
    folded = wedge.reflect(x, torch.tensor([3.0, 1e-3], dtype=torch.float64).expand_as(x))
    assert wedge.contains(folded.x).all() and int(folded.hits.max()) > 60
    single = wedge.float()
    assert single.contains(single.reflect(x.float(), torch.tensor([3.0, 1e-3]).expand(len(x), 2)).x).all()


def test_points_on_the_boundary() -> None:
    """Steps from walls and corners, along them and out of them, end inside; a step that ends on a wall is no hit."""
    for domain in (Box(0.0, 1.0, 2), Simplex(2)):
        corner = torch.zeros(5, 2)
        dx = torch.tensor([[-0.5, 0.0], [0.0, 0.5], [-0.3, -0.2], [0.0, 0.0], [0.4, -0.4]])
        folded = domain.reflect(corner, dx)
        assert domain.contains(folded.x).all() and torch.allclose(folded.x, dx.abs())
        assert folded.hits.tolist() == [1, 0, 2, 0, 1]
    on = Ball(1.0, 2).reflect(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[-2.0, 0.0], [0.0, 0.0]]))
    assert on.hits.tolist() == [0, 0] and torch.isfinite(on.x).all()


def test_not_finite_steps_show() -> None:
    """NaN and infinite steps give NaN or a point that is not inside, and leave the other rows alone; empty batches and no batch work."""
    for name in ("box", "ball10", "half_space", "simplex5", "polytope"):
        domain = DOMAINS[name]().double()
        x = inside(name, domain, 3)
        dx = 0.1 * torch.ones_like(x)
        wanted = domain.reflect(x[2:], dx[2:]).x
        dx[0], dx[1] = torch.nan, torch.inf
        folded = domain.reflect(x, dx)
        assert not domain.contains(folded.x)[0] and torch.allclose(folded.x[2:], wanted, atol=1e-14)
        assert domain.reflect(x[:0], dx[:0]).x.shape == (0, *domain.event_shape)
        assert domain.reflect(x[2], dx[2]).x.shape == domain.event_shape and domain.reflect(x[2], dx[2]).hits.shape == ()


def test_projections_are_nearest() -> None:
    """project gives the nearest point: no feasible direction lowers the distance (checked on random points of the set), and points inside stay."""
    for name in ("box", "half_space", "ball10", "simplex2", "simplex5", "polytope", "octahedron", "product"):
        domain = DOMAINS[name]().double()
        points = (
            inside(name, domain, 500, seed=5)
            if name != "product"
            else torch.cat(
                [Box(-1.0, 1.0, 1).double().uniform(500), Simplex(2).double().uniform(500), Ball(1.0, 2).double().uniform(500), torch.randn(500, 1).double()],
                -1,
            )
        )
        outside = points[:20] + 2 * torch.randn(points[:20].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        nearest = domain.project(outside)
        assert domain.contains(nearest).all()
        inner = torch.einsum("id,kid->ki", outside - nearest, points.unsqueeze(1) - nearest)
        assert float(inner.max()) <= 1e-6
        assert (domain.project(points) - points).abs().max() <= 1e-12


def test_volumes() -> None:
    """log_volume against closed forms and, for polytopes, Monte Carlo and a simplex given by its facets."""
    assert math.isclose(Box([0.0, -1.0], [2.0, 2.0]).log_volume, math.log(6))
    assert math.isclose(Ball(2.0, 3).log_volume, math.log(4 / 3 * math.pi * 8))
    assert math.isclose(Simplex(4).log_volume, -math.log(24))
    assert math.isclose(Product([Simplex(2), Ball(1.0, 2)]).log_volume, math.log(0.5 * math.pi))
    for dim in (1, 2, 5, 8):
        as_facets = Polytope(torch.cat([-torch.eye(dim), torch.ones(1, dim)]).double(), torch.tensor([0.0] * dim + [1.0]).double())
        assert math.isclose(as_facets.log_volume, Simplex(dim).log_volume, abs_tol=1e-9)
    cube = Polytope(torch.cat([torch.eye(3), -torch.eye(3)]), [1.0] * 6)
    assert math.isclose(cube.log_volume, math.log(8), abs_tol=1e-7)
    assert math.isclose(list(Polytope.examples())[1][1].log_volume, math.log(4 / 3), abs_tol=1e-7)
    some = facets(5, 15)
    low, high = some.double().box
    box = float((high - low).prod())
    points = low + (high - low) * torch.rand((400_000, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = float(some.contains(points).double().mean())
    assert abs(box * share / math.exp(some.log_volume) - 1) < 5 * ((1 - share) / share / 400_000) ** 0.5


def test_walk_is_uniform() -> None:
    """Where rejection would waste nearly all draws, the walk's coordinates and facet distances follow those of exact draws."""
    domain = facets(4, 12, seed=2).double()
    exact, walked = domain._by_rejection(20_000, torch.Generator().manual_seed(0)), domain._by_walk(20_000, torch.Generator().manual_seed(1))
    assert domain.contains(walked).all()
    for first, second in zip(torch.cat([exact, domain.slack(exact)], 1).T, torch.cat([walked, domain.slack(walked)], 1).T, strict=True):
        below = torch.searchsorted(second.sort().values, first.sort().values).double() / 20_000
        assert float((below - torch.arange(20_000) / 20_000).abs().max()) < 1.95 * (2 / 20_000) ** 0.5


def test_bad_sets_are_refused() -> None:
    """continuous O-7: sets without an interior, unbounded ones where a bound is needed, and sets without mirrors are refused with a remedy."""
    with pytest.raises(ConfigError, match="interior"):
        Polytope([[1.0], [-1.0]], [0.0, -1.0])
    with pytest.raises(ConfigError, match="interior"):
        Polytope([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [0.0, 0.0, 1.0, 1.0])
    with pytest.raises(ConfigError, match="shapes"):
        Polytope([[1.0, 0.0]], [0.0, 1.0])
    with pytest.raises(ConfigError, match="not zero"):
        Polytope([[0.0, 0.0]], [1.0])
    unbounded = Polytope([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    assert not unbounded.bounded and unbounded.contains(unbounded.reflect(torch.zeros(1, 2), torch.tensor([[5.0, 5.0]])).x).all()
    with pytest.raises(DomainError, match="unbounded"):
        unbounded.uniform(3)
    for domain in (Sphere(2), Integers(5, 2), MeanFree(3), Product([Ball(1.0, 2), Integers(3, 1)])):
        with pytest.raises(DomainError, match="convex"):
            require_reflection(domain, "ReflectedFlow")
    require_reflection(DOMAINS["product"](), "ReflectedFlow")


def test_reflection_is_cheap() -> None:
    """The facet loop ends as soon as nobody is outside: steps inside cost one evaluation of the facets."""
    domain = facets(10, 30).double()
    calls = 0
    slack = domain.slack

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return slack(x)

    domain.slack = counted  # type: ignore[method-assign]
    x = inside("polytope", domain, 100)
    calls = 0
    domain.reflect(x, torch.zeros_like(x))
    assert calls <= 3
    assert np.isfinite(float(x.sum()))
