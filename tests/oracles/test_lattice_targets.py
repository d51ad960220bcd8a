"""Lattice field theories against dense determinants, Bessel functions, other conventions and exact draws; float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.special import ive, logsumexp
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.target import Target
from flowkit.targets import Phi4, U1Lattice

TURN = 2 * math.pi


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _field(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=_seeded(seed), dtype=torch.float64)


def _links(x: Tensor) -> list[Tensor]:
    """phi(x + mu) for each direction of a lattice of two axes, written with indices."""
    rows, columns = (torch.arange(n) for n in x.shape[-2:])
    return [x[..., (rows + 1) % len(rows), :], x[..., (columns + 1) % len(columns)]]


def _hessian(target: Phi4) -> Tensor:
    """Of a quadratic action, from autograd at each unit vector."""
    sites = math.prod(target.event_shape)
    return -Target.score(target, torch.eye(sites, dtype=torch.float64).reshape(sites, *target.event_shape)).reshape(sites, sites)


# -- phi^4 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "dims", "m2"), [(6, 2, 0.5), ((8, 3), 2, 0.1), ((3, 2, 4), 3, 1.0), (5, 1, 2.0), ((3, 1), 2, 0.3)], ids=["6x6", "8x3", "3d", "line", "thin"]
)
def test_free_field_normalizer_is_the_dense_determinant(size: Any, dims: int, m2: float) -> None:
    """physics-A9: 1/2 sum_k log(pi / (m2 + sum_mu 4 sin^2(k_mu / 2))) against the log-det of S, 1e-14 (relative)."""
    target = Phi4(size, m2, 0.0, dims).double()
    sites = math.prod(target.event_shape)
    action = _hessian(target)
    wanted = 0.5 * sites * math.log(2 * math.pi) - 0.5 * float(torch.linalg.slogdet(action).logabsdet)
    scale = 0.5 * sites * math.log(2 * math.pi) + 0.5 * float(torch.linalg.eigvalsh(action).log().abs().sum())
    assert isinstance(target.log_normalizer, float)
    assert abs(target.log_normalizer - wanted) <= 1e-14 * scale


def test_phi4_action_by_hand() -> None:
    """Albergo's action (physics A.6), its score, and no normalizer for an interacting field."""
    x, target = _field(7, 4, 6), Phi4((4, 6), -4.0, 6.975).double()
    wanted = (sum((link - x).square() for link in _links(x)) - 4.0 * x.square() + 6.975 * x**4).sum((-2, -1))
    torch.testing.assert_close(target.log_density(x), -wanted, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(target.score(x), Target.score(target, x), rtol=1e-12, atol=1e-11)  # the closed form against autograd
    assert target.log_normalizer is None and target.sample(3) is None


def test_phi4_conventions() -> None:
    """physics A.6: the hopping and normflow forms are the same theory for a rescaled field."""
    x = _field(5, 4, 4, seed=1)
    hopping = Phi4.hopping(4, kappa=0.3, lam=0.022).double()
    assert hopping.m2 == pytest.approx(-0.8133, abs=5e-5) and hopping.lam == pytest.approx(0.2444, abs=5e-5)
    action = (-2 * 0.3 * sum(x * link for link in _links(x)) + (1 - 2 * 0.022) * x.square() + 0.022 * x**4).sum((-2, -1))
    torch.testing.assert_close(-hopping.log_density(0.3**0.5 * x), action, rtol=1e-12, atol=1e-12)
    assert hopping.hopping_parameters() == pytest.approx((0.3, 0.022), rel=1e-12)
    normflow = Phi4.normflow(4, kappa=1.4, m2=-2.0, lam=0.7).double()
    action = (0.7 * sum((link - x).square() for link in _links(x)) - x.square() + 0.7 * x**4).sum((-2, -1))
    torch.testing.assert_close(-normflow.log_density(0.7**0.5 * x), action, rtol=1e-12, atol=1e-12)
    assert build(hopping.describe(), Phi4).describe() == hopping.describe()
    for m2, lam, dims in ((-4.0, 6.975, 2), (0.5, 0.0, 2), (-9.0, 0.1, 3), (2.0, 1.0, 1)):
        again = Phi4.hopping(3, *Phi4(3, m2, lam, dims).hopping_parameters(), dims)
        assert (again.m2, again.lam) == pytest.approx((m2, lam), rel=1e-9, abs=1e-9)


def test_free_field_normalizer_follows_the_field() -> None:
    """log Z of the hopping form is that of the canonical one less V/2 log kappa: by its own dense determinant."""
    kappa, sites = 0.15, 9
    target = Phi4.hopping(3, kappa, 0.0).double()
    neighbours = torch.zeros(sites, sites, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for k in (3 * ((i + 1) % 3) + j, 3 * i + (j + 1) % 3):
                neighbours[3 * i + j, k] += 1
    matrix = 2 * torch.eye(sites, dtype=torch.float64) - 2 * kappa * (neighbours + neighbours.mT)  # the Hessian of the hopping action
    wanted = 0.5 * sites * math.log(2 * math.pi) - 0.5 * float(torch.linalg.slogdet(matrix).logabsdet)
    assert target.log_normalizer is not None
    assert target.log_normalizer - 0.5 * sites * math.log(kappa) == pytest.approx(wanted, abs=1e-12)


def test_free_field_draws_have_the_propagator() -> None:
    target = Phi4((4, 3), 0.4, 0.0).double()
    x = target.sample(40_000, _seeded(2))
    assert x is not None
    covariance = torch.linalg.inv(_hessian(target))
    got = x.flatten(1).mT @ x.flatten(1) / len(x)
    assert (got - covariance).abs().max() < 5 * 2**0.5 * covariance[0, 0] / len(x) ** 0.5
    torch.testing.assert_close(torch.fft.ifftn(target.free_propagator()).real.flatten(), covariance[0], rtol=1e-12, atol=1e-12)
    correlation = target.two_point(x[:2])
    wanted = torch.stack([(x[:2] * x[:2].roll((-i, -j), (1, 2))).mean((1, 2)) for i in range(4) for j in range(3)], -1)
    torch.testing.assert_close(correlation.flatten(1), wanted, rtol=1e-12, atol=1e-12)


def test_free_field_draws_of_any_number_and_precision() -> None:
    target = Phi4((3, 2), 0.5, 0.0)
    assert [draws.shape for n in (0, (2, 0)) if (draws := target.sample(n)) is not None] == [(0, 3, 2), (2, 0, 3, 2)]
    assert target.two_point(torch.zeros(0, 3, 2)).shape == (0, 3, 2)
    half, single = (Phi4((3, 2), 0.5, 0.0).to(dtype).sample(4, _seeded(0)) for dtype in (torch.bfloat16, torch.float32))
    assert half is not None and half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), single, rtol=0.05, atol=0.02)


def test_phi4_hopping_parameters_of_a_deep_well() -> None:
    """The positive root of 2 lam kappa^2 + (m2 + 2 dims) kappa = 1, where the 1 is lost to rounding: kappa = -(m2 + 2 dims) / (2 lam)."""
    kappa, lam = Phi4(4, -1e8, 1e-8).hopping_parameters()
    assert kappa == pytest.approx((1e8 - 4) / 2e-8, rel=1e-12) and lam == pytest.approx(1e-8 * kappa**2, rel=1e-12)


def test_phi4_lattice_symmetries() -> None:
    """On a square lattice all three change the field and not the action; sizes that differ have no quarter turn; tiny ones fewer still."""
    assert Phi4(4, 1.0, 1.0).invariances == {"sign", "lattice_translation", "lattice_reflection", "lattice_rotation"}
    assert Phi4((4, 3), 1.0, 1.0).invariances == {"sign", "lattice_translation", "lattice_reflection"}
    assert Phi4((2, 1), 1.0, 1.0).invariances == {"sign", "lattice_translation"}
    target, x = Phi4((3, 4, 3), -1.0, 0.5, 3).double(), _field(2, 3, 4, 3)
    seen = {tuple(target.symmetry("lattice_rotation", x, _seeded(s))[0].flatten().tolist()) for s in range(30)}  # type: ignore[index]
    assert len(seen) == 3  # by 90, 180 and 270 degrees in the one plane of equal sizes
    assert target.symmetry("unknown", x) is None


# -- U(1) ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "beta", "wanted"), [(4, 1.0, 62.5867), (8, 2.0, 287.9839), (16, 3.0, 1346.8318)])
def test_u1_normalizer(size: int, beta: float, wanted: float) -> None:
    """physics-A13: the published values to their four decimals, and the sum of scaled Bessel functions of scipy to 1e-10."""
    got = U1Lattice(size, beta).log_normalizer
    volume, orders = size**2, np.arange(-60, 61)
    with np.errstate(divide="ignore"):
        sums = logsumexp(volume * np.log(ive(orders, beta)))
    assert got == pytest.approx(wanted, abs=5.1e-5)
    assert got == pytest.approx(2 * volume * math.log(TURN) + volume * beta + float(sums), abs=1e-10)


@pytest.mark.parametrize("beta", [0.0, 1e-3, 50.0, 1e4])
def test_u1_normalizer_at_the_ends(beta: float) -> None:
    """No plaquette bends on one site; no coupling leaves the volume; and the Bessel functions hold for strong fields."""
    assert U1Lattice(1, beta).log_normalizer == pytest.approx(2 * math.log(TURN) + beta, rel=1e-12)
    orders = np.arange(-1000, 1001)
    with np.errstate(divide="ignore"):
        sums = 9 * beta + float(logsumexp(9 * np.log(ive(orders, beta))))
    assert U1Lattice(3, beta).log_normalizer == pytest.approx(18 * math.log(TURN) + sums, rel=1e-12)


def test_u1_normalizer_against_uniform_links() -> None:
    """physics-A13, without Bessel functions: the mean of exp(log_density) over uniform links, within four standard errors."""
    target = U1Lattice(2, 0.7).double()
    x = TURN * torch.rand((200_000, 2, 2, 2), generator=_seeded(3), dtype=torch.float64)
    weight = target.log_density(x).exp()
    wanted = math.exp(target.log_normalizer - 8 * math.log(TURN))  # type: ignore[operator]
    assert abs(float(weight.mean()) - wanted) < 4 * float(weight.std()) / len(x) ** 0.5


@pytest.mark.parametrize(("size", "beta"), [(2, 1.0), (5, 2.0)])
def test_u1_draws(size: int, beta: float) -> None:
    """Exact draws: mean action against d log Z / d beta, susceptibility of the charge against its sum over sectors, uniform links."""
    target, n, h = U1Lattice(size, beta).double(), 4000, 1e-3
    x = target.sample(n, _seeded(4))
    energy = target.log_density(x) / beta
    wanted = (U1Lattice(size, beta + h).log_normalizer - U1Lattice(size, beta - h).log_normalizer) / (2 * h)  # type: ignore[operator]
    assert abs(float(energy.mean()) - wanted) < 4 * float(energy.std()) / n**0.5
    assert (x.flatten(1).cos().mean(0).abs() < 5 / (2 * n) ** 0.5).all() and (x.flatten(1).sin().mean(0).abs() < 5 / (2 * n) ** 0.5).all()
    charge = target.topological_charge(x)
    raw = target.plaquettes(x).sum((-2, -1)) / TURN
    torch.testing.assert_close(charge, raw, rtol=0, atol=1e-9)  # an integer on every draw
    # a trial at angle phi: <exp(i phi Q)> = sum_n (c_n(phi) / c_n(0))^V, c_n(phi) the coefficient of e^(beta cos P + i (n + phi / 2 pi) P) on (-pi, pi)
    grid = np.linspace(-math.pi, math.pi, 4001)
    orders, phi = np.arange(-40, 41), 1.0
    cells = [trapezoid(np.exp(beta * (np.cos(grid) - 1)) * np.cos((orders[:, None] + shift) * grid), grid) for shift in (phi / TURN, 0.0)]
    twisted = (cells[0] ** size**2).sum() / (cells[1] ** size**2).sum()
    values = (phi * charge).cos()
    assert abs(float(values.mean()) - twisted) < 4 * max(float(values.std()), 0.02) / n**0.5
    assert float(charge.abs().max()) >= 1


@pytest.mark.parametrize("beta", [1e-9, 8e-9, 1e-6])
def test_u1_draws_at_weak_coupling(beta: float) -> None:
    """The envelope keeps its digits where beta^2 is lost beside 1: the same draws as at beta = 0, but for rounding of the angles."""
    drawn, free = (U1Lattice(3, value).double().sample(500, _seeded(7)) for value in (beta, 1e-9))
    torch.testing.assert_close(drawn, free, rtol=0, atol=1e-4)
    assert abs(float(U1Lattice(3, beta).plaquettes(drawn).cos().mean())) < 4 / (2 * drawn.shape[0] * 9) ** 0.5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_u1_gauge_invariance(dtype: torch.dtype, tolerance: float) -> None:
    """physics-A14 for the target: density, plaquettes and charge do not see gauge transformations; a change by hand agrees."""
    target = U1Lattice(4, 2.0).to(dtype)
    x = target.sample(16, _seeded(5))
    alpha = TURN * torch.rand((16, 4, 4), generator=_seeded(6), dtype=dtype)
    y = target.gauge_transform(x, alpha)
    assert bool(target.domain.contains(y).all()) and bool((y < TURN).all())
    torch.testing.assert_close(target.log_density(y), target.log_density(x), rtol=0, atol=32 * tolerance)
    torch.testing.assert_close((target.plaquettes(y) - target.plaquettes(x)).cos(), torch.ones(16, 4, 4, dtype=dtype), rtol=0, atol=tolerance)
    assert torch.equal(target.topological_charge(y), target.topological_charge(x))
    by_hand = alpha[:, 1, 2] + x[:, 0, 1, 2] - alpha[:, 2, 2], alpha[:, 1, 3] + x[:, 1, 1, 3] - alpha[:, 1, 0]
    for got, wanted in zip((y[:, 0, 1, 2], y[:, 1, 1, 3]), by_hand, strict=True):
        torch.testing.assert_close((got - wanted).cos(), torch.ones(16, dtype=dtype), rtol=0, atol=tolerance)


def test_u1_plaquette_by_hand_and_charge_of_a_winding() -> None:
    target = U1Lattice(4, 1.3).double()
    x = _field(3, 2, 4, 4, seed=7)
    p = x[:, 0, 3, 1] + x[:, 1, 0, 1] - x[:, 0, 3, 2] - x[:, 1, 3, 1]  # from the last row on to the first
    torch.testing.assert_close(torch.remainder(target.plaquettes(x)[:, 3, 1] - p + 1, TURN), torch.ones(3, dtype=torch.float64))
    wind = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    wind[:, 1] = TURN / 16 * torch.arange(4.0, dtype=torch.float64).unsqueeze(-1)
    wind[:, 0, 3] = -TURN / 4 * torch.arange(4.0, dtype=torch.float64)
    torch.testing.assert_close(target.plaquettes(wind), torch.full((1, 4, 4), TURN / 16, dtype=torch.float64))  # the uniform field of charge one
    assert target.topological_charge(wind).tolist() == [1.0] and target.topological_charge(-wind).tolist() == [-1.0]
