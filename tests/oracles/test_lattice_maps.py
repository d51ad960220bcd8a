"""Maps of lattice fields against closed forms: learned spectra, checkerboard couplings, gauge-equivariant couplings (physics-A9, A14)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import CheckerboardCoupling, FourierPSD, U1GaugeCoupling
from flowkit.bijectors.u1_gauge_coupling import _wrapped
from flowkit.core.errors import ConfigError, DomainError
from flowkit.nets import CircularConvNet
from flowkit.targets import Phi4, U1Lattice
from flowkit.testing._case import prepared
from flowkit.univariates import Affine, NonCompactProjection, RationalQuadraticSpline

D = torch.float64
TURN = 2 * math.pi


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(value: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert value.shape == wanted.shape
    assert float((value - wanted).detach().abs().max()) <= tolerance * max(1.0, float(wanted.detach().abs().max()))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest distance of two angles on the circle."""
    return float(torch.remainder((a - b).detach() + math.pi, TURN).sub(math.pi).abs().max())


# -- the power spectrum ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (4, 4), (3, 4), (2, 3, 3)])
def test_spectrum_is_a_covariance(shape: tuple[int, ...]) -> None:
    """x = A z with A symmetric, A^2 = F^-1 P F of positive P, and log_det = log|det A|."""
    f = prepared(FourierPSD(shape))
    sites = math.prod(shape)
    x, log_det = f(torch.eye(sites, dtype=D).reshape(sites, *shape))
    matrix = x.reshape(sites, sites)
    close(matrix, matrix.mT, 1e-14)
    close(log_det, torch.linalg.slogdet(matrix)[1].expand(sites), 1e-13)
    waves = torch.fft.fftn(torch.eye(sites, dtype=D).reshape(sites, *shape), dim=tuple(range(1, len(shape) + 1))).reshape(sites, sites)
    powers = torch.diagonal(waves.conj() @ (matrix @ matrix).to(waves.dtype) @ waves.mT).real / sites
    half = powers.reshape(shape)[..., : shape[-1] // 2 + 1]
    close(f.spectrum(), half, 1e-12)


def test_modes_tied_by_the_lattice() -> None:
    """On L x L an orbit is a pair |n_x|, |n_y| without order; the map commutes with the symmetries; parity ties k and -k only."""
    assert [len(FourierPSD((size, size)).log_power) for size in (4, 5, 8)] == [6, 6, 15]
    assert [len(FourierPSD((3, 4), tied=tied).log_power) for tied in ("lattice", "parity")] == [6, 7]
    f, z = prepared(FourierPSD((5, 5))), torch.randn(2, 5, 5, generator=generator(), dtype=D)
    for change in (lambda y: y.mT, lambda y: y.flip(-1), lambda y: y.flip(-2), lambda y: y.roll((1, 3), (-2, -1)), lambda y: -y):
        close(f(change(z))[0], change(f(z)[0]), 1e-13)
    loose = prepared(FourierPSD((5, 5), tied="parity"))
    close(loose(z.flip(-1, -2))[0], loose(z)[0].flip(-1, -2), 1e-13)
    assert float((loose(z.mT)[0] - loose(z)[0].mT).detach().abs().max()) > 1e-2


@pytest.mark.parametrize(("shape", "m2"), [((6, 6), 0.5), ((4, 3), 2.0), ((3, 2, 4), 1.0)])
def test_starts_at_the_free_field(shape: tuple[int, ...], m2: float) -> None:
    """physics-A9: with the propagator's own mass the weights of white noise under the map are constant, exp of the closed log Z."""
    f = FourierPSD(shape, m2=m2).double()
    target = Phi4(shape, m2, 0.0, dims=len(shape)).double()
    z = torch.randn(50, *shape, generator=generator(), dtype=D)
    x, log_det = f(z)
    log_base = (-0.5 * z.square() - 0.5 * math.log(TURN)).flatten(1).sum(1)
    weights = target.log_density(x) - log_base + log_det
    assert target.log_normalizer is not None
    close(weights, torch.full_like(weights, target.log_normalizer), 1e-5)  # the start is stored in float32


# -- the circle -----------------------------------------------------------------------------------------------------------


def test_stretched_angles() -> None:
    """The mean of 2 arctan(e^s tan(P / 2)) and its slope as they are written in the literature, on both sides of the pole and at it."""
    u = NonCompactProjection(3)
    angle = torch.cat([torch.linspace(0.01, math.pi - 0.01, 40, dtype=D), torch.linspace(math.pi + 0.01, TURN - 0.01, 40, dtype=D)])
    params = torch.randn(80, 3, generator=generator(), dtype=D)
    half = 0.5 * angle[:, None]
    branch = TURN * (angle[:, None] > math.pi).to(D)
    wanted = (2 * torch.atan(params.exp() * half.tan()) + branch).mean(1)
    slope = (1 / ((-params).exp() * half.cos().square() + params.exp() * half.sin().square())).mean(1)
    out, log_slope = u.transform(angle, params)
    close(out, wanted, 1e-13)
    close(log_slope, slope.log(), 1e-12)
    fixed, _ = u.transform(torch.tensor([0.0, math.pi, TURN], dtype=D), params[:3])
    close(fixed, torch.tensor([0.0, math.pi, TURN], dtype=D), 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_no_pole_at_half_a_turn(dtype: torch.dtype) -> None:
    """Around P = pi, where tan(P / 2) is infinite, the map is smooth, its derivative finite and its inverse exact, for strong stretches too."""
    u, eps = NonCompactProjection(2), torch.finfo(dtype).eps
    angle = (math.pi + torch.tensor([-1e-3, -4 * eps, 0.0, 4 * eps, 1e-3], dtype=D)).to(dtype).requires_grad_()
    for stretch in (0.0, 5.0, -12.0):
        params = torch.full((5, 2), stretch, dtype=dtype)
        out, log_slope = u.transform(angle, params)
        (slope,) = torch.autograd.grad(out.sum(), angle)
        close(slope.log(), log_slope, 1e3 * eps)
        back, steepest = u.untransform(out.detach(), params)[0], float((-log_slope.detach()).exp().max())
        assert float((back - angle).detach().abs().max()) <= 64 * eps * (1 + steepest)  # as far as the rounding of x decides about z


def test_implicit_gradient_of_the_inverse() -> None:
    """dz/dx = 1 / u' and dz/ds = -(du/ds) / u' at the root, without the iterations in the graph."""
    u = NonCompactProjection(3)
    params = torch.randn(20, 3, generator=generator(), dtype=D).requires_grad_()
    x = (TURN * torch.rand(20, generator=generator(1), dtype=D)).requires_grad_()
    z, log_slope = u.untransform(x, params)
    by_x, by_params = torch.autograd.grad(z.sum(), (x, params), retain_graph=True)
    at = z.detach().requires_grad_()
    again = params.detach().requires_grad_()
    value, forward_slope = u.transform(at, again)
    close(value, x.detach(), 1e-13)
    direct, bent = torch.autograd.grad(value.sum(), (at, again))
    close(by_x, 1 / direct, 1e-10)
    close(by_params, -bent / direct[:, None], 1e-10)
    close(log_slope, -forward_slope, 1e-10)


# -- the checkerboard -----------------------------------------------------------------------------------------------------


def test_checkerboard_symmetries() -> None:
    """Only one colour moves, by numbers the other one gives; an odd net commutes with -1, any net with shifts by two sites."""
    z = torch.randn(4, 6, 4, generator=generator(), dtype=D)
    parity = (torch.arange(6)[:, None] + torch.arange(4)) % 2
    for mapped, symmetry in itertools.product(("odd", "even"), ("sign", "none")):
        f = prepared(CheckerboardCoupling((6, 4), (4, 4), mapped, symmetry=symmetry))  # type: ignore[arg-type]
        x, log_det = f(z)
        moved = ((x - z).detach().abs() > 1e-6).all(0)
        assert bool((moved == (parity == (mapped == "odd"))).all())
        shifted, same = f(z.roll((2, 1, 1), (-2, -1, -2)).roll(-1, -2).roll(1, -1))
        close(shifted, x.roll((2, 2), (-2, -1)), 1e-13)
        close(same, log_det, 1e-13)
        flipped, log_det_flipped = f(-z)
        gap = float((flipped + x).detach().abs().max()) + float((log_det_flipped - log_det).detach().abs().max())
        assert gap < 1e-13 if symmetry == "sign" else gap > 1e-3


def test_scale_is_bounded() -> None:
    """|s| <= bound at every site, however large the net's output."""
    f = prepared(CheckerboardCoupling((4, 4), (4,), bound=0.5))
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.mul_(100.0)
    z = 10 * torch.randn(8, 4, 4, generator=generator(), dtype=D)
    assert float(f(z)[1].detach().abs().max()) <= 0.5 * 8 + 1e-12


# -- links ----------------------------------------------------------------------------------------------------------------


def links(batch: int, size: int, seed: int = 0, dtype: torch.dtype = D) -> Tensor:
    return (TURN * torch.rand(batch, 2, size, size, generator=generator(seed), dtype=D)).to(dtype)


@pytest.mark.parametrize(("direction", "offset"), list(itertools.product((0, 1), range(4))))
def test_stripes(direction: int, offset: int) -> None:
    """One line in four of one direction moves; of the plaquettes those on it and behind it move, by opposite amounts, the two between stay."""
    f, target = prepared(U1GaugeCoupling(8, 2, (4,), direction=direction, offset=offset)), U1Lattice(8, 1.0).double()
    z = links(3, 8)
    x, log_det = f(z)
    moved = torch.zeros(2, 8, 8, dtype=torch.bool)
    lines = torch.arange(offset, 8, 4)
    moved[direction].index_fill_(1 - direction, lines, True)
    assert bool((((x - z).detach().abs() > 1e-9).all(0) == moved).all())
    before, after = target.plaquettes(z), target.plaquettes(x)
    axis = -1 - direction
    for step, changes in ((0, True), (1, False), (2, False), (3, True)):
        stripe = (lines + step) % 8
        gap = apart(after.index_select(axis, stripe), before.index_select(axis, stripe))
        assert gap > 1e-3 if changes else gap == 0
    change = after - before
    assert apart(change.index_select(axis, lines), -change.index_select(axis, (lines - 1) % 8)) < 1e-12
    assert bool(((x >= 0) & (x < TURN)).all())
    assert log_det.shape == (3,)


@pytest.mark.parametrize(("dtype", "noise", "tolerance"), [(torch.float32, 0.1, 1e-5), (D, 0.3, 1e-12)])
def test_gauge_equivariance(dtype: torch.dtype, noise: float, tolerance: float) -> None:
    """physics-A14: gauge transformations before and after a layer agree, with the same log_det, to 1e-5 in float32; so does the inverse."""
    target = U1Lattice(8, 1.0).to(dtype)
    z, alpha = links(16, 8, 1, dtype), (TURN * torch.rand(16, 8, 8, generator=generator(2), dtype=D)).to(dtype)
    for i in range(8):
        f = U1GaugeCoupling(8, 3, (8, 8), direction=i % 2, offset=i // 2).to(dtype)
        with torch.no_grad():
            for parameter in f.parameters():
                parameter.add_(noise * torch.randn(parameter.shape, generator=generator(i), dtype=dtype))
        for call in (f, f.inverse):
            x, log_det = call(z)
            turned, log_det_turned = call(target.gauge_transform(z, alpha))
            assert apart(turned, target.gauge_transform(x, alpha)) < tolerance
            close(log_det_turned, log_det, tolerance)


def test_shifts_by_the_pattern() -> None:
    """Shifts by four sites across the lines, and by one along them, commute with a layer; a shift by two across does not."""
    f, z = prepared(U1GaugeCoupling(8, 2, (4,), direction=1, offset=2)), links(3, 8)
    x = f(z)[0]
    assert apart(f(z.roll((4, 1), (-2, -1)))[0], x.roll((4, 1), (-2, -1))) < 1e-12
    assert apart(f(z.roll(2, -2))[0], x.roll(2, -2)) > 1e-3


def test_all_links_in_eight_layers() -> None:
    """Directions by turns, offsets 0 .. 3: every link is mapped by one layer of eight."""
    z, count = links(2, 8), torch.zeros(2, 8, 8)
    for i in range(8):
        f = prepared(U1GaugeCoupling(8, 2, (4,), direction=i % 2, offset=i // 2 % 4))
        count += ((f(z)[0] - z).detach().abs() > 1e-9).all(0)
    assert bool((count == 1).all())


# -- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: U1GaugeCoupling(6), "multiple of 4"),
        (lambda: U1GaugeCoupling(4, direction=2), "direction"),
        (lambda: U1GaugeCoupling(4, offset=4), "offset"),
        (lambda: U1GaugeCoupling(4, univariate=Affine()), "interval"),
        (lambda: U1GaugeCoupling(4, univariate=RationalQuadraticSpline(4, (-1.0, 1.0), ends="circular")), "interval"),
        (lambda: FourierPSD((4, None)), "number of sites"),  # type: ignore[arg-type]
        (lambda: FourierPSD((4, 4), m2=-1.0), "m2"),
        (lambda: FourierPSD((4, 4), tied="all"), "tied"),  # type: ignore[arg-type]
        (lambda: CheckerboardCoupling((2, 2, 2, 2)), "1 to 3 axes"),
        (lambda: CheckerboardCoupling((1, 1)), "two sites"),
        (lambda: CheckerboardCoupling((4, 4), mapped="red"), "mapped"),  # type: ignore[arg-type]
        (lambda: CheckerboardCoupling((4, 4), activation="relu"), "odd activation"),
        (lambda: CheckerboardCoupling((4, 6), kernel=11), "kernel of at most 9"),
        (lambda: U1GaugeCoupling(4, kernel=5), "kernel of at most 3"),
        (lambda: CircularConvNet(1, 1, kernel=2), "odd kernel"),
        (lambda: NonCompactProjection(0), "components"),
        (lambda: NonCompactProjection(2, low=math.inf), "low"),
    ],
)
def test_arguments(make: Callable[[], Any], words: str) -> None:
    """What cannot be built is refused in one line that says what was expected."""
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_angles_outside_the_circle() -> None:
    """Links are angles in [0, 2 pi]; others are refused, not wrapped: a density of them would not be one."""
    with pytest.raises(DomainError, match="outside"):
        U1GaugeCoupling(4)(torch.full((2, 4, 4), 7.0))


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_wrapped_links_lie_in_the_circle(dtype: torch.dtype) -> None:
    """Near whole turns, where rounding of the quotient goes either way, links come out in [0, 2 pi) and within rounding of where they were."""
    eps = torch.finfo(dtype).eps
    turns = TURN * torch.arange(-6, 7, dtype=D)[:, None] + TURN * eps * torch.arange(-40, 41, dtype=D) / 4
    angle = turns.to(dtype).requires_grad_()
    inside = _wrapped(angle)
    assert bool(((inside >= 0) & (inside < TURN)).all())
    assert apart(inside.detach().to(D), angle.detach().to(D)) < 32 * eps
    (slope,) = torch.autograd.grad(inside.sum(), angle)
    assert bool((slope == 1).all())
