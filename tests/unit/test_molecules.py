"""Molecules through OpenMM: energies against forces and numerical derivatives, workers, regularisation, handedness, dynamics, errors; float64."""

from __future__ import annotations

import builtins
import copy
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowkit.bijectors import InternalCoordinates
from flowkit.core.build import build
from flowkit.core.errors import ConfigError, FlowkitError, NonFiniteError, ShapeError
from flowkit.core.registry import TARGETS
from flowkit.targets import AlanineDipeptide, OpenMMTarget
from flowkit.targets._geometry import chiral_centres
from flowkit.targets._openmm import is_installed
from flowkit.targets._potential import regularized
from flowkit.targets.openmm_target import WATER

needs_openmm = pytest.mark.skipif(not is_installed(), reason="OpenMM is not installed")


@pytest.fixture(scope="module")
def molecule() -> AlanineDipeptide:
    return AlanineDipeptide()


@pytest.fixture(scope="module")
def x(molecule: AlanineDipeptide) -> Tensor:
    """Perturbed structures near the minimum: (3, 22, 3)."""
    noise = torch.randn((3, 22, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return molecule.minimized() + 0.005 * noise


# -- energies ---------------------------------------------------------------------------------------------------


@needs_openmm
def test_energy_is_the_force_fields(molecule: AlanineDipeptide, x: Tensor) -> None:
    """-log p is OpenMM's energy over kT, for any batch shape, and the lowest structure is the known minimum of this force field."""
    import openmm
    from openmm import app, unit

    topology = app.Topology()
    chain = topology.addChain()
    made = []
    names, left = molecule.atoms["names"], 0
    for residue, count in molecule.atoms["residues"]:
        place = topology.addResidue(residue, chain)
        made += [topology.addAtom(name, app.Element.getBySymbol(name[0]), place) for name in names[left : left + count]]
        left += count
    for first, second in molecule.bonds:
        topology.addBond(made[first], made[second])
    system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    thermal = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)
    for row in x:
        context.setPositions(row.numpy())
        energy = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        assert float(molecule.log_density(row)) == pytest.approx(-energy / thermal, abs=1e-9)
    assert torch.equal(molecule.log_density(x.reshape(1, 3, 22, 3)), molecule.log_density(x)[None])
    assert float(molecule.potential_energy(molecule.minimized())) == pytest.approx(-133.39, abs=0.01)


@needs_openmm
def test_force_is_the_gradient(molecule: AlanineDipeptide, x: Tensor) -> None:
    step = 1e-6 * torch.randn((4, 22, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = (molecule.log_density(x[0] + step) - molecule.log_density(x[0] - step)) / 2
    torch.testing.assert_close(slope, (molecule.score(x[0]) * step).sum((1, 2)), atol=1e-7, rtol=1e-6)
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    point = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad((molecule.log_density(point) * upstream).sum(), point)
    torch.testing.assert_close(pulled, molecule.score(x) * upstream[:, None, None])


@needs_openmm
def test_second_derivatives_are_refused(molecule: AlanineDipeptide, x: Tensor) -> None:
    point = x[:1].clone().requires_grad_()
    (force,) = torch.autograd.grad(molecule.log_density(point).sum(), point, create_graph=True)
    with pytest.raises(FlowkitError, match="no second derivatives"):
        force.square().sum().backward()


@needs_openmm
def test_workers_agree_with_this_process_and_end(molecule: AlanineDipeptide, x: Tensor) -> None:
    shared = AlanineDipeptide(workers=2)
    for batch in (x, x[:1], x[:0]):
        torch.testing.assert_close(shared.log_density(batch), molecule.log_density(batch), atol=1e-12, rtol=0)
        torch.testing.assert_close(shared.score(batch), molecule.score(batch), atol=1e-9, rtol=0)
    pool: Any = shared._energies._pool
    copied = pickle.loads(pickle.dumps(copy.deepcopy(shared)))
    assert copied._energies._pool is None  # a copy starts its own
    if pid := os.fork() if hasattr(os, "fork") else 0:
        assert os.waitpid(pid, 0)[1] == 0
    elif hasattr(os, "fork"):
        shared._energies.close()  # a child leaves its parent's workers alone
        os._exit(0)
    torch.testing.assert_close(shared.log_density(x), molecule.log_density(x), atol=1e-12, rtol=0)
    pool.processes[0].kill()
    pool.processes[0].wait()
    with pytest.raises(FlowkitError, match="a worker process ended"):
        shared.log_density(x)
    shared.close()
    assert all(process.poll() is not None for process in pool.processes)


# -- unphysical structures --------------------------------------------------------------------------------------


def test_regularisation_by_its_formula() -> None:
    """physics-D.1: u below the cut, cut + log(1 + u - cut) above, constant from the cap on; the gradient is that of the value."""
    u = np.array([-5.0, 100.0, 101.0, 1e4, 1e6, np.nan, -np.inf, np.inf, 3.0])
    gradient = np.ones((9, 1, 3))
    gradient[8] = np.nan
    value, slope = regularized(u, gradient, 100.0, 1e6)
    top = 100 + math.log1p(1e6 - 100)
    np.testing.assert_allclose(value, [-5, 100, 100 + math.log(2), 100 + math.log1p(9900), top, top, top, top, top])
    np.testing.assert_allclose(slope[:, 0, 0], [1, 1, 0.5, 1 / 9901, 0, 0, 0, 0, 0])


@needs_openmm
def test_atoms_on_top_of_each_other(molecule: AlanineDipeptide, x: Tensor) -> None:
    """B-5: bounded energies with finite gradients, or one clear error that names the sample."""
    bad = x.clone()
    bad[1, 5] = bad[1, 20]
    bad[2] = 0.0
    point = bad.requires_grad_()
    value = molecule.log_density(point)
    (gradient,) = torch.autograd.grad(value.sum(), point)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all()
    assert value[1] <= -1e8 and float(gradient[1].abs().max()) == 0.0
    with pytest.raises(NonFiniteError, match="sample 1 of 3, and for 1 more: atoms overlap"):
        AlanineDipeptide(energy_cut=None).log_density(bad)
    lost = x.clone()
    lost[2, 7, 1] = math.nan
    with pytest.raises(NonFiniteError, match="nan at atom 7 of sample 2 of 3"):
        molecule.log_density(lost)


# -- the molecule -----------------------------------------------------------------------------------------------


@needs_openmm
def test_softened_energies_agree_below_their_cut(molecule: AlanineDipeptide, x: Tensor) -> None:
    soft = molecule.softened(20.0)
    u = -molecule.log_density(x)
    assert soft.energy_cut == pytest.approx(float(-molecule.log_density(molecule.minimized())) + 20.0)
    above = u > soft.energy_cut
    assert above.any() and torch.equal(soft.log_density(molecule.minimized()), molecule.log_density(molecule.minimized()))
    torch.testing.assert_close(-soft.log_density(x)[above], soft.energy_cut + torch.log1p(u[above] - soft.energy_cut))


@needs_openmm
def test_handedness(molecule: AlanineDipeptide, x: Tensor) -> None:
    """The one chiral centre is the alpha carbon; a mirror changes it, a rotation does not."""
    assert [centre[0] for centre in molecule._centres] == [8]
    assert molecule.same_handedness(x).all()
    assert not molecule.same_handedness(x * torch.tensor([1.0, 1.0, -1.0])).any()
    assert molecule.same_handedness(x.roll(1, -1) + 1.0).all()
    turned = torch.stack([molecule.structure(phi, psi) for phi in (-2.0, 0.5, 2.5) for psi in (-1.0, 2.0)])
    assert molecule.same_handedness(turned).all()


def test_chiral_centres_need_four_different_neighbours() -> None:
    bonds = [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert chiral_centres(["C", "H", "F", "Cl", "Br"], bonds) == [(0, 2, 3, 4)]
    assert chiral_centres(["C", "H", "H", "Cl", "Br"], bonds) == []
    longer = [*bonds, (3, 5), (4, 6), (6, 7)]  # two branches that differ at their second atom
    assert chiral_centres(["C", "H", "F", "C", "C", "H", "C", "H"], longer)[0][0] == 0


def test_template_has_the_angles_asked_for() -> None:
    molecule = AlanineDipeptide()
    for phi, psi in ((-1.4, 2.6), (1.0, 0.7), (math.pi, -2.0)):
        angles = molecule.phi_psi(molecule.structure(phi, psi))
        torch.testing.assert_close((angles - torch.tensor([phi, psi])).cos(), torch.ones(2, dtype=torch.float64), atol=1e-9, rtol=0)


@needs_openmm
def test_trajectory(molecule: AlanineDipeptide) -> None:
    """Seeds repeat, energies are those of 300 K, frames keep their handedness; replica exchange exchanges."""
    first, again = (molecule.simulate(2000, stride=20, warm_up=1000, seed=3) for _ in range(2))
    assert first.shape == (100, 22, 3)
    assert torch.equal(first, again)
    energy = -molecule.log_density(first)
    assert -50 < float(energy.mean()) < 0  # minimum -53.5, and 30 more by equipartition of 60 modes
    assert molecule.same_handedness(first).all()
    mixed = molecule.simulate(1000, stride=50, warm_up=200, temperatures=(320.0,), exchange_every=50, seed=1)
    assert mixed.shape == (20, 22, 3) and torch.isfinite(molecule.log_density(mixed)).all()
    with pytest.raises(NonFiniteError, match="blew up"):
        molecule.simulate(500, time_step=50.0, warm_up=0)


@needs_openmm
def test_general_molecules_and_descriptions(tmp_path: Path) -> None:
    """A PDB by path or text is described and built again; a raw System works and is refused by describe."""
    import openmm

    path = tmp_path / "water.pdb"
    path.write_text(WATER)
    target = OpenMMTarget(str(path), 310.0, force_fields=("tip3p.xml",))
    again: Any = build(target.describe(), TARGETS)
    x = target.minimized()
    assert float(again.log_density(x)) == float(target.log_density(x))
    assert {frozenset(bond) for bond in target.bonds} == {frozenset((0, 1)), frozenset((0, 2))} and target.event_shape == (3, 3)
    assert (x[1] - x[0]).norm() == pytest.approx(0.09572, abs=1e-4)
    system = openmm.XmlSerializer.deserialize(target.molecule.system)
    raw = OpenMMTarget(system, 310.0)
    assert float(raw.log_density(x)) == float(target.log_density(x))
    with pytest.raises(ConfigError, match=r"OpenMMTarget.system: cannot describe a value of type System"):
        raw.describe()


@needs_openmm
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.pdb",), "there is no file 'nowhere.pdb'"),
        ((WATER,), "the force field .* does not fit the molecule"),
        ((3,), "got int"),
        ((WATER, -1.0), "temperature"),
        ((WATER, 300.0, 7), "platform"),
    ],
)
def test_arguments_are_checked(arguments: tuple[Any, ...], message: str) -> None:
    fields = {} if message.startswith("the force") else {"force_fields": ("tip3p.xml",)}
    with pytest.raises(ConfigError, match=message):
        OpenMMTarget(*arguments, **fields)


@needs_openmm
def test_calls_are_checked(molecule: AlanineDipeptide) -> None:
    with pytest.raises(ShapeError, match=r"\(22, 3\)"):
        molecule.log_density(torch.zeros(21, 3))
    with pytest.raises(ConfigError, match=r"one of .*Reference.*; got 'Quantum'"):
        AlanineDipeptide(platform="Quantum").log_density(torch.zeros(22, 3))
    with pytest.raises(ConfigError, match="energy_cap above energy_cut"):
        AlanineDipeptide(energy_cut=1e6, energy_cap=1e5)


def test_openmm_missing_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """B-5: building costs nothing; the first energy says what to install."""
    plain = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "openmm":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    molecule = AlanineDipeptide()
    for call in (lambda: molecule.log_density(torch.zeros(22, 3)), lambda: OpenMMTarget(WATER)):
        with pytest.raises(ConfigError, match=r'need OpenMM. Install it with: pip install "flowkit\[molecules\]"'):
            call()


# -- coordinates ------------------------------------------------------------------------------------------------


@needs_openmm
def test_z_matrix_along_bonds(molecule: AlanineDipeptide, x: Tensor) -> None:
    """One torsion for each of the seven bonds that turn, impropers for the rest; physics-D4 of the made rows: 1e-9 back, log-det to 1e-8."""
    f: Any = InternalCoordinates.from_bonds(molecule.bonds).double()
    assert sum(f.torsions) == 7 and len(f.torsions) == 19
    fours = [row for row in f.z_matrix if len(row) == 4]
    turning = {frozenset(row[1:3]) for row, flag in zip(fours, f.torsions, strict=True) if flag}
    assert turning == {frozenset(pair) for pair in ((1, 4), (4, 6), (6, 8), (8, 14), (14, 16), (16, 18), (8, 10))}
    bonded = {frozenset(bond) for bond in molecule.bonds}
    assert all(frozenset(row[:2]) in bonded for row in f.z_matrix)
    z, down = f.inverse(x)
    back, up = f(z)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(up, -down, atol=1e-9, rtol=0)
    matrix: Any = torch.autograd.functional.jacobian(lambda at: f.inverse(at)[0], x[0])
    torch.testing.assert_close(down[0], torch.linalg.slogdet(matrix.reshape(66, 66)).logabsdet, atol=1e-8, rtol=0)


@pytest.mark.parametrize("bonds", [[(0, 1)], [(0, 1), (1, 2)], [(0, 1), (1, 2), (2, 0)], [(0, i) for i in range(1, 5)], [(i, i + 1) for i in range(6)]])
def test_any_connected_molecule_has_rows(bonds: list[tuple[int, int]]) -> None:
    f: Any = InternalCoordinates.from_bonds(bonds).double()
    x = torch.randn((2, f.atoms, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(f(f.inverse(x)[0])[0], x, atol=1e-9, rtol=0)
    assert InternalCoordinates.from_bonds(bonds, root=1).seed_atoms.tolist() == [1]


def test_atoms_without_bonds_are_named() -> None:
    with pytest.raises(ConfigError, match="none from atom 0 to atom 2"):
        InternalCoordinates.from_bonds([(0, 1), (2, 3)])
    with pytest.raises(ConfigError, match="root"):
        InternalCoordinates.from_bonds([(0, 1)], root=5)
