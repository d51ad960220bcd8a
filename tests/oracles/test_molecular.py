"""Internal coordinates and energies of small particle systems against autograd, closed forms and published minima; float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest
from torch import Tensor

from flowkit.bijectors import InternalCoordinates
from flowkit.core.errors import ConfigError
from flowkit.targets import DoubleWell4, LennardJones, ManyWell
from flowkit.targets.many_well import ENVELOPE, _log_proposal

SEED = (8, 6, 14)  # alanine dipeptide, FAB's coordinates (physics D.1)
ROWS = [
    *[(0, 1, 4, 6), (1, 4, 6, 8), (2, 1, 4, 0), (3, 1, 4, 0), (4, 6, 8, 14), (5, 4, 6, 8), (7, 6, 8, 4), (9, 8, 6, 4), (10, 8, 6, 4)],
    *[(11, 10, 8, 6), (12, 10, 8, 11), (13, 10, 8, 11), (15, 14, 8, 16), (16, 14, 8, 6), (17, 16, 14, 15), (18, 16, 14, 8)],
    *[(19, 18, 16, 14), (20, 18, 16, 19), (21, 18, 16, 19)],
]
FULL = [(6, 8), (14, 8, 6), *ROWS]  # the same molecule with one Cartesian atom, 8


def _chain(batch: int) -> Tensor:
    """Perturbed chains of 22 atoms, in nanometres: (batch, 22, 3)."""
    step = torch.arange(22.0, dtype=torch.float64)
    helix = torch.stack([0.1 * torch.cos(1.7 * step), 0.1 * torch.sin(1.7 * step), 0.08 * step], dim=-1)
    return helix + 0.02 * torch.randn((batch, 22, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _dihedral(x: Tensor, atoms: tuple[int, ...]) -> Tensor:
    """The textbook formula, atan2(|b| a . (b x c), (a x b) . (b x c))."""
    a, b, c = (x[..., atoms[i + 1], :] - x[..., atoms[i], :] for i in range(3))
    normal = torch.linalg.cross(b, c)
    return torch.atan2(b.norm(dim=-1) * (a * normal).sum(-1), (torch.linalg.cross(a, b) * normal).sum(-1))


def _rotation() -> Tensor:
    matrix = torch.linalg.qr(torch.randn((3, 3), generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    return matrix * torch.linalg.det(matrix).sign()


def _slogdet(call: Any, point: Tensor) -> Tensor:
    matrix: Any = torch.autograd.functional.jacobian(lambda at: call(at)[0], point).reshape(point.numel(), point.numel())
    return torch.linalg.slogdet(matrix).logabsdet


@pytest.mark.parametrize(("rows", "seed"), [(ROWS, SEED), (FULL, (8,))], ids=["mixed", "full"])
def test_alanine_dipeptide_round_trip_and_log_det(rows: Any, seed: Any) -> None:
    """physics-D4: round trip to 1e-9, log_det against the autograd Jacobian of all 66 coordinates to 1e-8, both directions."""
    f: Any = InternalCoordinates(rows, seed=seed).double()
    x = _chain(3)
    z, down = f.inverse(x)
    back, up = f(z)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(f.inverse(back)[0], z, atol=1e-9, rtol=0)
    torch.testing.assert_close(up, -down, atol=1e-10, rtol=0)
    for row in range(2):
        torch.testing.assert_close(up[row], _slogdet(f, z[row]), atol=1e-8, rtol=0)
        torch.testing.assert_close(down[row], _slogdet(f.inverse, x[row]), atol=1e-8, rtol=0)


def test_coordinates_are_the_textbook_ones() -> None:
    x = _chain(4)
    f = InternalCoordinates(ROWS, seed=SEED).double()
    seed, bond, angle, turn = f.inverse(x)[0].split([9, 19, 19, 19], dim=-1)
    torch.testing.assert_close(seed.reshape(4, 3, 3), x[:, list(SEED)])
    for i, (atom, p, q, r) in enumerate(ROWS):
        torch.testing.assert_close(bond[:, i], (x[:, atom] - x[:, p]).norm(dim=-1), atol=1e-12, rtol=0)
        cosine = torch.nn.functional.cosine_similarity(x[:, atom] - x[:, p], x[:, q] - x[:, p], dim=-1)
        torch.testing.assert_close(angle[:, i], cosine.acos(), atol=1e-9, rtol=0)
        torch.testing.assert_close(turn[:, i], _dihedral(x, (atom, p, q, r)), atol=1e-10, rtol=0)
    names = [row[0] for row in ROWS]
    torch.testing.assert_close(turn[:, names.index(4)], _dihedral(x, (4, 6, 8, 14)), atol=1e-10, rtol=0)  # phi
    torch.testing.assert_close(turn[:, names.index(16)], _dihedral(x, (6, 8, 14, 16)), atol=1e-10, rtol=0)  # psi


def test_dihedral_sign_and_cis() -> None:
    """Seen along the middle bond, a clockwise turn of the far bond against the near one is positive; cis is zero."""
    f = InternalCoordinates([(3, 2, 1, 0)]).double()
    start = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]  # atom 1 at the origin, 2 above it, 0 to the right
    for turn, wanted in ((0.0, (1.0, 0.0, 1.0)), (math.pi, (-1.0, 0.0, 1.0)), (math.pi / 2, (0.0, 1.0, 1.0))):
        x, log_det = f(torch.tensor([*start, 1.0, math.pi / 2, turn], dtype=torch.float64))
        torch.testing.assert_close(x[3], torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)
        assert abs(float(log_det)) < 1e-12  # d = 1, sin a = 1
        assert float((_dihedral(x, (3, 2, 1, 0)) - turn).cos()) == pytest.approx(1.0)


def test_rigid_motions_move_the_seed_only_and_mirrors_flip_dihedrals() -> None:
    f: Any = InternalCoordinates(ROWS, seed=SEED).double()
    x, rotation = _chain(3), _rotation()
    z, log_det = f.inverse(x)
    moved, moved_log_det = f.inverse(x @ rotation.mT + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(moved[:, 9:], z[:, 9:], atol=1e-9, rtol=0)
    torch.testing.assert_close(moved_log_det, log_det, atol=1e-9, rtol=0)
    assert (moved[:, :9] - z[:, :9]).abs().max() > 0.1
    mirrored = f.inverse(x * torch.tensor([1.0, 1.0, -1.0]))[0]
    torch.testing.assert_close(mirrored[:, 9:47], z[:, 9:47], atol=1e-10, rtol=0)
    torch.testing.assert_close(mirrored[:, 47:], -z[:, 47:], atol=1e-10, rtol=0)


def test_full_form_separates_six_rigid_numbers_from_the_shape() -> None:
    """physics-D4, 3N - 6: log_det - log sin u is the volume element of shapes and does not see rigid motions."""
    f: Any = InternalCoordinates(FULL, seed=(8,)).double()
    x = _chain(3)
    z, down = f.inverse(x)
    bond, angle = z[:, 3:24], z[:, 24:45]
    rigid = [0, 1, 2, 24, 45, 46]  # position; u and azimuth of atom 6; turn of atom 14
    shape = [i for i in range(66) if i not in rigid]
    assert len(shape) == 3 * 22 - 6
    element = (2 * bond.log()).sum(-1) + angle[:, 1:].sin().log().sum(-1)
    torch.testing.assert_close(-down - angle[:, 0].sin().log(), element, atol=1e-10, rtol=0)
    moved, moved_down = f.inverse(x @ _rotation().mT + 1.0)
    torch.testing.assert_close(moved[:, shape], z[:, shape], atol=1e-9, rtol=0)
    assert ((moved - z).abs()[:, rigid].amin() > 1e-4).item()
    torch.testing.assert_close(-moved_down - moved[:, 24].sin().log(), element, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_references_stay_finite(dtype: torch.dtype) -> None:
    f: Any = InternalCoordinates([(1, 0), (2, 1, 0), (3, 2, 1, 0), (4, 3, 2, 1)]).to(dtype)
    line = torch.tensor([0.0, 0.0, 1.0], dtype=dtype) * torch.arange(5.0, dtype=dtype).unsqueeze(-1)
    for x in (line, torch.zeros(5, 3, dtype=dtype), line.flip(-1)):
        x = x.clone().requires_grad_()
        z, log_det = f.inverse(x)
        assert f.domain.contains(z)
        again = f(z)[0]
        torch.testing.assert_close(again, x, atol=1e-5, rtol=0)  # points on a line still come back
        (gradient,) = torch.autograd.grad(z.sum() + log_det + again.sum(), x)
        assert torch.isfinite(z).all() and torch.isfinite(log_det) and torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "at least one row"),
        ([(3,)], {}, "row 0"),
        ([(3, 2, 1, 0), (4, 3, 2, 2)], {}, "row 1"),
        ([(3, 2, 1, -1)], {}, "row 0"),
        ([(3, 2, 1, 0), (3, 2, 1, 0)], {}, "rows 0 and 1"),
        ([(3, 4, 1, 0), (4, 3, 1, 0)], {}, "row 0.*Break the circle"),
        ([(3, 2, 1, 0)], {"seed": (0, 1)}, r"leaves out \[2\]"),
        ([(3, 2, 1, 0)], {"seed": (0, 1, 2, 3)}, "atom 3, which row 0"),
        ([(3, 2, 1, 7)], {"seed": (0, 1, 2)}, r"\[7\] in row 0"),
    ],
)
def test_bad_z_matrices_are_named(rows: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InternalCoordinates(rows, **options)


# -- energies -----------------------------------------------------------------------------------------------------


def _icosahedron(target: LennardJones) -> Tensor:
    """A centre and the twelve corners, at the radius of lowest energy (by Newton's method): (13, 3)."""
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]
    points = torch.tensor([(0.0, 0.0, 0.0), *corners, *[(b, c, a) for a, b, c in corners], *[(c, a, b) for a, b, c in corners]], dtype=torch.float64)
    points = points / points[1].norm()
    radius = torch.tensor(0.96, dtype=torch.float64)
    slope = torch.func.grad(lambda r: target.log_density(r * points))
    for _ in range(20):
        radius = radius - slope(radius) / torch.func.grad(slope)(radius)
    return radius * points


@pytest.mark.parametrize(("factor", "oscillator", "energy"), [(1, 0.0, -44.32680), (1, 1.0, -38.77219), (2, 1.0, -83.08964)])
def test_lennard_jones_minima(factor: int, oscillator: float, energy: float) -> None:
    """physics-D2."""
    target = LennardJones(13, factor, oscillator).double()
    x = _icosahedron(target)
    assert -float(target.log_density(x)) == pytest.approx(energy, abs=1e-4)
    assert target.score(x).abs().max() < 1e-8
    nearby = x + 0.05 * torch.randn((200, 13, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert (target.log_density(nearby) < target.log_density(x)).all()


def test_lennard_jones_default_counts_pairs_twice_and_scales() -> None:
    pair = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]], dtype=torch.float64)
    well = 1.5**-12 - 2 * 1.5**-6
    assert -float(LennardJones(2).log_density(pair)) == pytest.approx(2 * well + 0.5 * 2 * 0.75**2, rel=1e-12)
    scaled = LennardJones(2, LennardJones.PAIRS_ONCE, 0.0, epsilon=3.0, radius=2.0)
    assert -float(scaled.log_density(2 * pair)) == pytest.approx(3 * well, rel=1e-12)


def test_lennard_jones_forces() -> None:
    """physics-D3: force on i is sum over j of 12 f (d^-14 - d^-8)(x_i - x_j) - o (x_i - centre)."""
    x = torch.randn((4, 13, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    apart = x.unsqueeze(-2) - x.unsqueeze(-3)
    square = apart.square().sum(-1, keepdim=True) + torch.eye(13).unsqueeze(-1)
    wanted = (24 * (square**-7 - square**-4) * apart).sum(-2) - 0.7 * (x - x.mean(-2, keepdim=True))
    got = LennardJones(13, 2, 0.7).double().score(x)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_lennard_jones_core_joins_smoothly_and_is_finite() -> None:
    target = LennardJones(2, 1, 0.0, dim=1).double()

    def at(distance: Tensor) -> Tensor:
        return target.log_density(torch.stack([torch.zeros_like(distance), distance], dim=-1).unsqueeze(-1))

    d = torch.tensor([0.1 - 1e-9, 0.1 + 1e-9], dtype=torch.float64)
    values, slopes = at(d), torch.func.vmap(torch.func.grad(at))(d)
    assert values.exp().tolist() == [0.0, 0.0]
    assert float(values[0] / values[1]) == pytest.approx(1.0, rel=1e-6) and float(slopes[0] / slopes[1]) == pytest.approx(1.0, rel=1e-6)
    inside = at(torch.linspace(0.0, 0.1, 50, dtype=torch.float64))
    assert (inside.diff() > 0).all() and torch.isfinite(inside).all()
    single = LennardJones(13).float()
    assert torch.isfinite(single.score(torch.zeros(13, 3))).all() and torch.isfinite(single.score(1e-3 * torch.randn(13, 3))).all()


def test_double_well4_by_hand() -> None:
    target = DoubleWell4().double()
    square = 4 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    over = (4 * 2**0.5 - 4) ** 2  # sides of 4 cost nothing, the two diagonals do
    assert -float(target.log_density(square)) == pytest.approx(2 * (0.9 * over**2 - 4 * over), rel=1e-12)
    assert -float(target.log_density(torch.zeros(4, 2, dtype=torch.float64))) == pytest.approx(6 * (0.9 * 256 - 4 * 16), rel=1e-12)
    line = torch.tensor([0.0, 4 + (4 / 1.8) ** 0.5, 1e3, 2e3], dtype=torch.float64)
    pairs = [abs(float(a - b)) - 4 for i, a in enumerate(line) for b in line[:i]]
    wanted = sum(0.9 * d**4 - 4 * d**2 for d in pairs)
    assert -float(target.log_density(torch.stack([line, 0 * line], -1))) == pytest.approx(wanted, rel=1e-12)
    assert min(0.9 * d**4 - 4 * d**2 for d in pairs) == pytest.approx(-4.4444, abs=1e-4)
    assert torch.isfinite(target.score(torch.zeros(4, 2, dtype=torch.float64))).all()


@pytest.mark.parametrize("target", [DoubleWell4(), LennardJones(13)], ids=["dw4", "lj13"])
def test_symmetries(target: Any) -> None:
    """physics-D3, to 1e-10 (relative where energies are large)."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((8, *target.event_shape), generator=generator, dtype=torch.float64) + 3 * torch.arange(target.event_shape[0]).unsqueeze(-1) % 7
    value = target.log_density(x)
    turn = torch.linalg.qr(torch.randn((x.shape[-1],) * 2, generator=generator, dtype=torch.float64)).Q
    for changed in (x + 1.3, x @ turn, -x, x[:, torch.randperm(x.shape[1], generator=generator)]):
        torch.testing.assert_close(target.log_density(changed), value, rtol=1e-10, atol=1e-10)


def test_many_well_normalizer() -> None:
    """physics-D1: the published constants, and quadrature by another method."""
    mass, _ = quad(lambda x: math.exp(-(x**4) + 6 * x**2 + 0.5 * x), -6, 6, epsabs=1e-9, points=[-1.7, 0.0, 1.7])
    assert mass == pytest.approx(11784.50927, abs=1e-5)
    assert ManyWell(32).log_normalizer == pytest.approx(164.695675, abs=1e-6)
    for dim in (2, 32):
        assert ManyWell(dim).log_normalizer == pytest.approx(dim / 2 * (math.log(mass) + 0.5 * math.log(2 * math.pi)), rel=1e-12)


def test_many_well_samples() -> None:
    """physics-D1: mass of the right well; the x follow their distribution function, the y a normal one."""
    target = ManyWell(4).double()
    x = target.sample(50_000, torch.Generator().manual_seed(0))
    wells, normals = x[:, ::2].flatten(), x[:, 1::2].flatten()
    assert float((wells > 0).double().mean()) == pytest.approx(0.84431, abs=5e-3)
    grid = np.linspace(-4, 4, 20001)
    cumulated = np.cumsum(np.exp(-(grid**4) + 6 * grid**2 + 0.5 * grid))
    assert kstest(wells.numpy(), lambda at: np.interp(at, grid, cumulated / cumulated[-1])).pvalue > 1e-3
    assert kstest(normals.numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(x[:, ::2].T)[0, 1])) < 0.02


def test_many_well_envelope_lies_above() -> None:
    x = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    log_ratio = (-(x**4) + 6 * x**2 + 0.5 * x) - math.log(11784.50927) - _log_proposal(x)
    assert math.log(ENVELOPE) - 0.01 < float(log_ratio.max()) < math.log(ENVELOPE)


def test_bad_arguments() -> None:
    for call in (lambda: ManyWell(3), lambda: LennardJones(1), lambda: LennardJones(13, 3), lambda: LennardJones(13, oscillator=-1.0)):
        with pytest.raises(ConfigError):
            call()
