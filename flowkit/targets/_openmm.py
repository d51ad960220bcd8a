"""OpenMM, imported when first needed: systems as text, and their energies in this process or in workers."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowkit.core.errors import ConfigError, FlowkitError
from flowkit.targets._openmm_workers import Workers

GAS_CONSTANT = 8.31446261815324e-3  # kJ / mol / K
Array = NDArray[np.float64]


def is_installed() -> bool:
    """Whether OpenMM can be imported; does not import it."""
    return "openmm" in sys.modules or importlib.util.find_spec("openmm") is not None


def require(who: str) -> Any:
    """The module openmm, with openmm.app.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import openmm
        import openmm.app
        import openmm.unit
    except ImportError:
        raise ConfigError(f'{who}: energies of molecules need OpenMM. Install it with: pip install "flowkit[molecules]"') from None
    return openmm


class Molecule(NamedTuple):
    """What OpenMM needs to know of a molecule, as plain values.

    Args:
        system: an openmm.System as XML.
        atoms: names of the atoms; elements: their symbols; residues: (name, number of atoms) in order.
        bonds: pairs of atoms.
        masses: (N,), in dalton; positions: (N, 3) in nm, a structure to start from, or None.
    """

    system: str
    atoms: tuple[str, ...]
    elements: tuple[str, ...]
    residues: tuple[tuple[str, int], ...]
    bonds: tuple[tuple[int, int], ...]
    masses: Array
    positions: Array | None


def check_platform(openmm: Any, name: str, who: str) -> str:
    """The name of a platform that this OpenMM has."""
    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    if name not in known:
        raise ConfigError(f"{who}: expected a platform of this OpenMM, one of {', '.join(known)}; got {name!r}.")
    return name


def topology_of(names: Sequence[str], elements: Sequence[str], residues: Iterable[Sequence[Any]], bonds: Iterable[Sequence[int]]) -> Any:
    """The openmm.app.Topology of one chain.

    Args:
        names, elements: of the atoms; an element of "" is none. residues: (name, number of atoms) in order. bonds: pairs of atoms.
    """
    app = require("OpenMM").app
    topology, left = app.Topology(), iter(zip(names, elements, strict=True))
    chain = topology.addChain()
    made = []
    for residue, count in residues:
        place = topology.addResidue(residue, chain)
        for _ in range(count):
            name, symbol = next(left)
            made.append(topology.addAtom(name, app.Element.getBySymbol(symbol) if symbol else None, place))
    for first, second in bonds:
        topology.addBond(made[first], made[second])
    return topology


def molecule_of(topology: Any, system: Any, positions: Array | None) -> Molecule:
    """The plain values of a topology and a system; a topology of None leaves atoms without names and bonds."""
    openmm = require("OpenMM")
    count = system.getNumParticles()
    masses = np.array([system.getParticleMass(i)._value for i in range(count)])
    text = openmm.XmlSerializer.serialize(system)
    if topology is None:
        return Molecule(text, ("X",) * count, ("",) * count, (("MOL", count),), (), masses, positions)
    atoms = list(topology.atoms())
    residues = tuple((residue.name, len(list(residue.atoms()))) for residue in topology.residues())
    bonds = tuple((bond[0].index, bond[1].index) for bond in topology.bonds())
    symbols = tuple("" if atom.element is None else atom.element.symbol for atom in atoms)
    return Molecule(text, tuple(atom.name for atom in atoms), symbols, residues, bonds, masses, positions)


def force_field_system(topology: Any, force_fields: Sequence[str], who: str) -> Any:
    """The openmm.System of a topology in vacuum or implicit solvent: no cutoff, no constraints."""
    app = require(who).app
    try:
        return _force_field(tuple(force_fields)).createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False)
    except Exception as error:
        raise ConfigError(f"{who}: the force field {tuple(force_fields)} does not fit the molecule ({' '.join(str(error).split())}).") from None


@functools.cache
def _force_field(names: tuple[str, ...]) -> Any:
    return require("OpenMM").app.ForceField(*names)


class Energies:
    """Potential energies and forces of one system. Each process makes its own context, when first asked.

    Args:
        system: an openmm.System as XML.
        platform: an OpenMM platform.
        workers: processes, one thread each; 0 evaluates in this process.
    """

    def __init__(self, system: str, platform: str, workers: int) -> None:
        self.system, self.platform, self.workers = system, platform, workers
        self._owner = -1
        self._context: Any = None
        self._pool: Workers | None = None

    def __call__(self, x: Array, who: str) -> tuple[Array, Array]:
        """Energies (n,) in kJ/mol and forces (n, N, 3) in kJ/mol/nm at positions (n, N, 3) in nm; NaN where OpenMM finds none."""
        if self._owner != os.getpid():  # a forked child must leave its parent's contexts and pipes alone
            self._owner, self._context, self._pool = os.getpid(), None, None
        if self.workers:
            if self._pool is None:
                check_platform(require(who), self.platform, who)
                self._pool = Workers(self.system, self.platform, self.workers)
            return self._pool(x, who)
        if self._context is None:
            self._context = make_context(self.system, self.platform, who)
        return evaluate(self._context, x)

    def close(self) -> None:
        """End the workers and free the context; the next call makes new ones."""
        if self._pool is not None and self._owner == os.getpid():
            self._pool.close()
        self._context = self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        return {"system": self.system, "platform": self.platform, "workers": self.workers, "_owner": -1, "_context": None, "_pool": None}


def make_context(system: str, platform: str, who: str) -> Any:
    """A context for energies: its integrator is never run."""
    openmm = require(who)
    check_platform(openmm, platform, who)
    options = {"Threads": "1"} if platform == "CPU" else {}
    integrator = openmm.VerletIntegrator(0.001)
    try:
        return openmm.Context(openmm.XmlSerializer.deserialize(system), integrator, openmm.Platform.getPlatformByName(platform), options)
    except openmm.OpenMMException as error:
        raise FlowkitError(f"{who}: OpenMM cannot use its platform {platform!r} here ({error}). Choose another platform.") from None


def evaluate(context: Any, x: Array) -> tuple[Array, Array]:
    """Energies and forces of structures one after the other."""
    refused = require("OpenMM").OpenMMException
    energies, forces = np.full(len(x), np.nan), np.full(x.shape, np.nan)
    for i, positions in enumerate(x):
        if not np.isfinite(positions).all():
            continue
        try:
            context.setPositions(positions)
            state = context.getState(getEnergy=True, getForces=True)
            energies[i] = state.getPotentialEnergy()._value
            forces[i] = state.getForces(asNumpy=True)._value
        except refused:  # "Particle coordinate is NaN" and the like; the row stays NaN
            continue
    return energies, forces
