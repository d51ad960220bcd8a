"""The Boltzmann head: free energies and divergences by hand, a small generator from data to files, umbrella windows, errors."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.bijectors import InternalCoordinates
from flowkit.core.errors import CheckpointError, ConfigError, DataError, ShapeError
from flowkit.core.objective import Batch
from flowkit.experiment.record import Run, Units
from flowkit.experiment.samples import write_samples
from flowkit.flows import MolecularFlow
from flowkit.heads.boltzmann import BoltzmannGenerator, Umbrella, free_energy_difference, ramachandran_divergence, umbrella, write_pdb
from flowkit.heads.boltzmann._training import Handed
from flowkit.objectives import ReverseKL
from flowkit.plots import energies, ramachandran
from flowkit.targets import AlanineDipeptide, OpenMMTarget
from flowkit.targets._openmm import is_installed
from flowkit.targets.openmm_target import WATER

pytestmark = pytest.mark.skipif(not is_installed(), reason="OpenMM is not installed")


@pytest.fixture(scope="module")
def molecule() -> AlanineDipeptide:
    return AlanineDipeptide()


@pytest.fixture(scope="module")
def data(molecule: AlanineDipeptide) -> Tensor:
    return molecule.simulate(6000, stride=20, warm_up=1000, seed=0)


@pytest.fixture(scope="module")
def trained(molecule: AlanineDipeptide, data: Tensor) -> BoltzmannGenerator:
    made = BoltzmannGenerator(molecule, layers=2, hidden=(16,), bins=4, seed=0)
    made.fit(data, steps=20, batch_size=64, energy="both", energy_steps=2, energy_batch_size=16, progress=False)
    return made


# -- numbers ----------------------------------------------------------------------------------------------------


def test_free_energy_difference_by_hand() -> None:
    inside = torch.tensor([True, False, False, False])
    plain = free_energy_difference(inside)
    assert plain.value == pytest.approx(math.log(3)) and plain.share == 0.25
    assert plain.error == pytest.approx(math.sqrt(3 / 16 / 4) / (3 / 16))
    weighted = free_energy_difference(inside, torch.tensor([3.0, 1.0, 1.0, 1.0]))
    assert weighted.value == pytest.approx(0.0)
    with pytest.raises(DataError, match="all 3 samples with weight lie on one side"):
        free_energy_difference(torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ShapeError, match="not negative"):
        free_energy_difference(inside, -torch.ones(4))


def test_block_errors_see_correlation() -> None:
    """Frames repeated 50 times have the error of the frames once; the formula for independent ones would be 7 times less."""
    frames = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.3
    alone, repeated = free_energy_difference(frames), frames.repeat_interleave(50)
    assert free_energy_difference(repeated, blocks=20).error == pytest.approx(alone.error, rel=0.4)
    assert free_energy_difference(repeated).error == pytest.approx(alone.error / math.sqrt(50), rel=1e-3)


def test_ramachandran_divergence() -> None:
    grid = torch.cartesian_prod(*[torch.linspace(-3, 3, 20)] * 2)
    assert ramachandran_divergence(grid, grid + 2 * math.pi) == pytest.approx(0.0, abs=1e-12)
    half = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert ramachandran_divergence(half, half, torch.tensor([0.9, 0.1]), bins=4) == pytest.approx(
        0.5 * math.log(0.25 / 0.45) + 0.5 * math.log(0.25 / 0.05), abs=0.5
    )
    assert math.isfinite(ramachandran_divergence(half, half[:1].repeat(10, 1)))


# -- the flow ---------------------------------------------------------------------------------------------------


def test_the_flows_density_is_that_of_shapes(molecule: AlanineDipeptide, trained: BoltzmannGenerator) -> None:
    """Rotations leave log q alone, and so do moves within the cube; outside it is minus infinity."""
    x, log_prob = trained.flow.sample_and_log_prob((3,), generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn((3, 3), generator=torch.Generator().manual_seed(1))).Q
    turn = turn * torch.linalg.det(turn).sign()
    torch.testing.assert_close(trained.flow.log_prob(trained.flow.centred(x) @ turn.mT), log_prob, atol=5e-3, rtol=0)
    torch.testing.assert_close(trained.flow.log_prob(trained.flow.centred(x) + 0.4), log_prob, atol=5e-3, rtol=0)
    assert bool(torch.isneginf(trained.flow.log_prob(trained.flow.centred(x) + 0.6)).all())
    assert float(trained.flow.shape(x.detach())[:, :21].min()) > 0.08


def test_centres_come_from_the_data(molecule: AlanineDipeptide, data: Tensor) -> None:
    """An untrained flow has the data's means and deviations, on the circle for dihedrals."""
    flow: Any = MolecularFlow(InternalCoordinates.from_bonds(molecule.bonds).z_matrix, layers=1, hidden=(4,))
    flow.set_standardizer([flow.centred(data[:150]).float(), flow.centred(data[150:]).float()])
    drawn = flow.shape(flow.sample((2000,), generator=torch.Generator().manual_seed(0)))
    shapes = flow.shape(flow.centred(data).float())
    local = [*range(41), *(41 + i for i, flag in enumerate(flow.internal.torsions) if not flag)]
    off = torch.remainder(drawn[:, local].mean(0) - shapes[:, local].mean(0) + math.pi, 2 * math.pi) - math.pi
    spread = shapes[:, local].std(0)
    inside = spread < 1.0  # an improper at pi is cut in plain coordinates
    assert float((off / spread)[inside].abs().max()) < 0.2
    assert float((drawn[:, local].std(0) / spread)[inside].log().abs().max()) < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(3, 2, 1, 0)],), "full form"),
        (([(1, 0), (2, 0, 1)], torch.ones(3)), "both, or neither"),
        (([(1, 0), (2, 0, 1)], torch.ones(4), torch.ones(4)), "3 finite numbers"),
        (([(1, 0), (2, 0, 1)], torch.tensor([0.1, 0.1, 1.8]), torch.tensor([0.02, 0.01, 0.1])), "not so: number 0"),
        (([(1, 0), (2, 0, 1)], None, None, (True,)), "each of 0 dihedrals; got 1"),
    ],
)
def test_flow_arguments_are_checked(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MolecularFlow(*arguments)


# -- the generator ----------------------------------------------------------------------------------------------


def test_from_data_to_report(molecule: AlanineDipeptide, data: Tensor, trained: BoltzmannGenerator) -> None:
    report = trained.report(1000, reference=data, generator=torch.Generator().manual_seed(0), progress=False)
    assert {"ess", "log_z", "handed", "weighted_ramachandran_divergence", "reference_energy"} <= set(report.numbers)
    assert report.numbers["handed"] == 1.0 and 0 < report.numbers["ess"] <= 1
    assert set(report.figures()) == {"energies", "ramachandran"}
    basin = trained.free_energy_difference(lambda x: molecule.phi_psi(x)[:, 0] > -1.5, report.weighted)
    assert 0 < basin.share < 1 and basin.error > 0


def test_files_and_saving(tmp_path: Path, molecule: AlanineDipeptide, trained: BoltzmannGenerator) -> None:
    """A PDB is read back by OpenMM to its 1e-3 angstroms; a saved generator is the same; a molecule that cannot be described is refused."""
    import openmm.app

    x = trained.sample(2, generator=torch.Generator().manual_seed(0))
    again = openmm.app.PDBFile(str(write_pdb(tmp_path / "two.pdb", molecule, x)))
    assert again.getNumFrames() == 2
    assert [atom.element.symbol for atom in again.topology.atoms()] == molecule.atoms["elements"]
    assert len(list(again.topology.bonds())) == 21
    back = torch.tensor(again.getPositions(asNumpy=True, frame=1)._value)
    torch.testing.assert_close(back.float(), x[1], atol=6e-5, rtol=0)
    lines = trained.write(tmp_path / "three.xyz", 3).read_text().splitlines()
    assert len(lines) == 3 * 24 and lines[0] == "22" and lines[2].split()[0] == "H"
    with pytest.raises(ConfigError, match=r"one of the endings \.pdb, \.xyz"):
        trained.write(tmp_path / "x.doc")
    loaded = BoltzmannGenerator.load(trained.save(tmp_path / "made"))
    assert torch.equal(loaded.flow.log_prob(x), trained.flow.log_prob(x))
    assert loaded.target.describe() == molecule.describe()
    (tmp_path / "made" / "molecule.json").unlink()
    with pytest.raises(CheckpointError, match="Pass molecule="):
        BoltzmannGenerator.load(tmp_path / "made")


def test_flowkit_sample_writes_structures(tmp_path: Path, molecule: AlanineDipeptide, trained: BoltzmannGenerator) -> None:
    """What ``flowkit sample -o x.pdb`` calls; without a molecule it says so."""
    run = Run(tmp_path, trained.flow, Units((22, 3), molecule=molecule.atoms), None)
    write_samples(run, tmp_path / "x.pdb", 3)
    write_samples(run, tmp_path / "x.xyz", 3)
    text = (tmp_path / "x.pdb").read_text()
    assert text.count("MODEL ") == 3 and text.count("HETATM") == 36 and text.count("ATOM  ") == 30  # of ALA only is every viewer sure
    lines = (tmp_path / "x.xyz").read_text().splitlines()
    assert len(lines) == 72 and lines[1].startswith("log_prob=") and lines[3].startswith("C ")
    with pytest.raises(ConfigError, match=r"\.pdb is for structures of a molecule"):
        write_samples(Run(tmp_path, trained.flow, Units((22, 3)), None), tmp_path / "y.pdb", 3)


def test_path_gradients_of_the_molecule(molecule: AlanineDipeptide, trained: BoltzmannGenerator) -> None:
    """Carried along the sampling pass, through couplings, circles and internal coordinates, they are those of the two-pass form; float64."""
    flow, found = copy.deepcopy(trained.flow).double(), []
    for kind in ("path", "path_two_pass"):
        flow.zero_grad()
        loss = ReverseKL(molecule.softened(100.0), gradient=kind).loss(flow, Batch(size=8), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        loss.value.backward()
        found.append(torch.cat([p.grad.flatten() for p in flow.parameters() if p.grad is not None]))
    assert float((found[0] - found[1]).abs().max()) < 1e-9 * float(found[1].abs().max())


def test_the_other_hand_has_no_weight(molecule: AlanineDipeptide, data: Tensor) -> None:
    both = torch.cat([data[:2], -data[:2]])
    value = Handed(molecule, molecule.same_handedness).log_density(both)
    assert torch.equal(value[:2], molecule.log_density(data[:2])) and bool(torch.isneginf(value[2:]).all())


def test_any_molecule_from_its_energy_alone() -> None:
    """Water: three numbers. The weights' log Z is the integral over the shape, computed on a grid, to its error bar."""
    made = BoltzmannGenerator(WATER, force_fields=("tip3p.xml",), layers=1, hidden=(8,), bins=4, seed=0)
    made.fit(energy="reverse_kl", energy_steps=60, energy_batch_size=32, energy_lr=1e-2, progress=False)
    weighted = made.reweight(4000, generator=torch.Generator().manual_seed(0), progress=False)
    assert weighted.ess > 0.3
    centre, spread = made.flow.shape(made.flow.centred(made.target.minimized()).float()).double(), torch.tensor([0.003, 0.003, 0.1], dtype=torch.float64)
    axes = [c + s * torch.linspace(-6, 6, 25, dtype=torch.float64) for c, s in zip(centre, spread, strict=True)]
    first, second, angle = torch.cartesian_prod(*axes).unbind(-1)
    zero = torch.zeros_like(first)
    x = torch.stack([torch.stack([zero] * 3, -1), torch.stack([first, zero, zero], -1), torch.stack([second * angle.cos(), second * angle.sin(), zero], -1)], 1)
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    element = 2 * first.log() + 2 * second.log() + angle.sin().log() + math.log(8 * math.pi**2)  # and the cube's volume is 1
    exact = float(torch.logsumexp(made.target.log_density(x) + element, 0)) + math.log(cell)
    assert weighted.log_z == pytest.approx(exact, abs=max(4 * weighted.log_z_error, 0.02))


def test_errors_are_clear(molecule: AlanineDipeptide, data: Tensor) -> None:
    import openmm

    made = BoltzmannGenerator(molecule, layers=1, hidden=(4,))
    with pytest.raises(ConfigError, match="expected data, or energy="):
        made.fit()
    with pytest.raises(DataError, match="got 0 of 300"):
        made.fit(-data)
    with pytest.raises(DataError, match="structure 7"):
        made.fit(torch.where(torch.arange(300)[:, None, None] == 7, math.nan, data))
    with pytest.raises(ConfigError, match="one of reverse_kl"):
        made.fit(data, steps=1, batch_size=8, energy="guess", progress=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="molecule with bonds"):
        BoltzmannGenerator(openmm.XmlSerializer.deserialize(OpenMMTarget(WATER, force_fields=("tip3p.xml",)).molecule.system))
    with pytest.raises(ConfigError, match="force_fields only with a PDB"):
        BoltzmannGenerator(molecule, force_fields=("tip3p.xml",))


# -- umbrella sampling ------------------------------------------------------------------------------------------


def test_umbrella_windows_stay_and_are_joined(molecule: AlanineDipeptide) -> None:
    made = umbrella(molecule, molecule.PHI, windows=3, steps=400, stride=20, warm_up=300, seed=0)
    assert made.samples.shape == (3, 20, 22, 3)
    off = torch.remainder(made.angles - made.centres[:, None] + math.pi, 2 * math.pi) - math.pi
    assert float(off.abs().mean()) < 0.5
    with pytest.raises(ConfigError, match="four different atoms"):
        umbrella(molecule, (1, 1, 2, 3))


def test_umbrella_weights_undo_the_bias() -> None:
    """Angles drawn from biased von Mises laws, whose unbiased law is uniform times exp(cos): the share of the right half is known."""
    generator = torch.Generator().manual_seed(0)
    centres, stiffness = torch.linspace(-math.pi, math.pi, 13, dtype=torch.float64)[:-1], 8.0
    grid = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)[:-1]
    gap = torch.remainder(grid - centres[:, None] + math.pi, 2 * math.pi) - math.pi
    law = (grid.cos() - 0.5 * stiffness * gap.square()).exp()
    angles = grid[torch.multinomial(law, 2000, replacement=True, generator=generator)]
    made = Umbrella(torch.zeros(12, 2000, 1, 3), angles, centres, stiffness)
    share = (made.log_weights().softmax(0) * (angles.reshape(-1).abs() < math.pi / 2)).sum()
    wanted = grid.cos().exp()
    assert float(share) == pytest.approx(float(wanted[grid.abs() < math.pi / 2].sum() / wanted.sum()), abs=0.01)


# -- pictures ---------------------------------------------------------------------------------------------------


def test_pictures_refuse_what_they_cannot_show() -> None:
    angles = torch.rand((50, 2), generator=torch.Generator().manual_seed(0))
    assert len(ramachandran({"a": angles, "b": angles}, weights={"b": torch.rand(50)}).axes) == 3
    with pytest.raises(ShapeError, match="angles"):
        ramachandran({"a": angles[:, :1]})
    with pytest.raises(ShapeError, match="50 weights"):
        ramachandran({"a": angles}, weights={"a": torch.rand(3)})
    with pytest.raises(ShapeError, match="at least one"):
        energies({})
