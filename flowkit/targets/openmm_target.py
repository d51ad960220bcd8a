"""Any molecule that OpenMM knows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.core.errors import ConfigError
from flowkit.core.registry import TARGETS
from flowkit.targets._molecular_target import CAP, CUT, MolecularTarget
from flowkit.targets._openmm import Molecule, force_field_system, is_installed, molecule_of, require


@TARGETS.register("openmm_target", "openmm")
class OpenMMTarget(MolecularTarget):
    """log p(x) = -E(x) / kT of a molecule in vacuum or implicit solvent, x (N, 3) in nanometres, E from OpenMM.

    From a PDB with the names of force fields (files of ``openmm.app.ForceField``, or your own), without cutoff and constraints: this can
    be saved and put in a config. Or from an ``openmm.System`` made elsewhere, which cannot be described and so not saved.

    Evaluated in float64; the forces are the exact gradient, and second derivatives are refused. Above ``energy_cut`` the energy counts
    as E_cut + log(1 + min(E, E_cap) - E_cut) in units of kT, and atoms on top of each other count as E_cap: every structure of finite
    positions has a finite log-density, with a gradient that is zero from the cap on.

    Args:
        system: path of a PDB file, or its text (a string of several lines), or an openmm.System.
        temperature: in kelvin.
        platform: an OpenMM platform: ``Reference`` (double precision, one thread; the fastest for a few dozen atoms), ``CPU``, ``CUDA`` ...
        force_fields: names of the XML files; for a PDB.
        topology: an openmm.app.Topology for a System, to write files and find bonds.
        workers: processes that share the evaluations, one thread each; 0 evaluates in this process.
        energy_cut: E / kT above which only its logarithm counts; None takes energies as they are, and those not finite are an error.
        energy_cap: E / kT counts at most as this.

    Raises:
        ConfigError: OpenMM is missing, the PDB cannot be read, the force field does not fit, or the system has constraints.
        NonFiniteError: positions that are not finite, with the number of the sample.

    Reference: Eastman et al. (2024), OpenMM 8, J. Physical Chemistry B 128, 109; Noe et al. (2019), Boltzmann generators,
    arXiv:1812.01729; regularisation as in Midgley et al. (2023), arXiv:2208.01893.
    """

    def __init__(
        self,
        system: Any,
        temperature: float = 300.0,
        platform: str = "Reference",
        *,
        force_fields: Sequence[str] = ("amber99sbildn.xml", "amber99_obc.xml"),
        topology: Any = None,
        workers: int = 0,
        energy_cut: float | None = CUT,
        energy_cap: float = CAP,
    ) -> None:
        read = _from_pdb(system, force_fields) if isinstance(system, str | Path) else _from_system(system, topology)
        super().__init__(len(read.atoms), temperature, platform, workers, energy_cut, energy_cap)
        self.system = str(system) if isinstance(system, Path) else system
        self.force_fields, self.topology = force_fields, topology
        self._read = read

    def _molecule(self) -> Molecule:
        return self._read

    @classmethod
    def examples(cls) -> Iterator[tuple[str, OpenMMTarget]]:
        if is_installed():
            yield "water", cls(WATER, force_fields=("tip3p.xml",))


WATER = """\
ATOM      1  O   HOH A   1       0.000   0.000   0.000
ATOM      2  H1  HOH A   1       0.957   0.000   0.000
ATOM      3  H2  HOH A   1      -0.240   0.927   0.000
END
"""


def _from_pdb(source: str | Path, force_fields: Sequence[str]) -> Molecule:
    who = "OpenMMTarget"
    app = require(who).app
    text = isinstance(source, str) and "\n" in source
    if not text and not Path(source).is_file():
        raise ConfigError(f"{who}: expected the path of a PDB file, or its text; there is no file {str(source)!r}.")
    try:
        pdb = app.PDBFile(io.StringIO(str(source)) if text else str(source))
    except Exception as error:
        raise ConfigError(f"{who}: cannot read the PDB ({' '.join(str(error).split())}).") from None
    positions = np.array(pdb.getPositions(asNumpy=True)._value, dtype=np.float64)
    return molecule_of(pdb.topology, force_field_system(pdb.topology, force_fields, who), positions)


def _from_system(system: Any, topology: Any) -> Molecule:
    who = "OpenMMTarget"
    openmm = require(who)
    if not isinstance(system, openmm.System):
        raise ConfigError(f"{who}: expected the path of a PDB file, its text, or an openmm.System; got {type(system).__name__}.")
    if system.getNumConstraints():
        raise ConfigError(f"{who}: expected a system without constraints; got {system.getNumConstraints()}. Create it with constraints=None, rigidWater=False.")
    if topology is not None and topology.getNumAtoms() != system.getNumParticles():
        raise ConfigError(f"{who}: expected a topology of {system.getNumParticles()} atoms; got {topology.getNumAtoms()}.")
    return molecule_of(topology, system, None)
