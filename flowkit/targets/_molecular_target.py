"""What targets over OpenMM share: reduced energies of molecules, regularised, and what is known of the atoms."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import check_event, positive, positive_number, whole_number
from flowkit.core.target import Target
from flowkit.core.traits import Traits
from flowkit.targets._geometry import chiral_centres, handedness
from flowkit.targets._molecular_dynamics import Plan, trajectory
from flowkit.targets._openmm import GAS_CONSTANT, Energies, Molecule, make_context, require
from flowkit.targets._potential import check_energies, reduced_energy, regularized

Array = NDArray[np.float64]
CUT, CAP = 1e8, 1e20  # kT, as in FAB's alanine dipeptide


class MolecularTarget(Target):
    """log p(x) = -E(x) / kT of the structure x (N, 3) in nanometres, E from OpenMM. See the public classes.

    Args:
        atoms: N.
        temperature: in kelvin.
        platform: an OpenMM platform; ``Reference`` (double precision, one thread) is the fastest for a few dozen atoms.
        workers: processes that share the evaluations, one thread each; 0 evaluates in this process.
        energy_cut: E / kT above which only its logarithm counts, E_cut + log(1 + E - E_cut); None takes energies as they are.
        energy_cap: E / kT is at most this before the logarithm; what is not finite counts as the cap.
    """

    traits = Traits(compiles=False, vmaps=False)
    invariances = frozenset({"rotation", "translation"})

    def __init__(self, atoms: int, temperature: float, platform: str, workers: int, energy_cut: float | None, energy_cap: float) -> None:
        super().__init__()
        self._who = type(self).__name__
        self.temperature = positive_number(temperature, self._who, "temperature")
        self.platform, self.workers = platform, whole_number(workers, self._who, "workers", 0)
        self.energy_cut, self.energy_cap = energy_cut, positive_number(energy_cap, self._who, "energy_cap")
        if energy_cut is not None and (isinstance(energy_cut, bool) or not math.isfinite(energy_cut) or energy_cap <= energy_cut):
            raise ConfigError(f"{self._who}: expected energy_cut to be a finite number with energy_cap above energy_cut; got {energy_cut!r}, {energy_cap!r}.")
        if not isinstance(platform, str):
            raise ConfigError(f"{self._who}: expected platform to be the name of an OpenMM platform; got {platform!r}. Use 'Reference'.")
        self.event_shape = (atoms, 3)

    def _molecule(self) -> Molecule:
        """The system and its atoms; asked for once."""
        raise NotImplementedError

    @cached_property
    def molecule(self) -> Molecule:
        """The system as XML, names, elements, bonds and masses of the atoms, and a structure to start from (22, 3), as plain values."""
        return self._molecule()

    @cached_property
    def _energies(self) -> Energies:
        return Energies(self.molecule.system, self.platform, self.workers)

    @property
    def thermal_energy(self) -> float:
        """kT in kJ/mol."""
        return GAS_CONSTANT * self.temperature

    @property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Pairs of bonded atoms."""
        return self.molecule.bonds

    @property
    def atoms(self) -> dict[str, Any]:
        """``names``, ``elements``, ``residues`` (name, number of atoms) and ``bonds`` as plain lists, to write files with."""
        molecule = self.molecule
        return described(molecule.atoms, molecule.elements, molecule.residues, molecule.bonds)

    @cached_property
    def _centres(self) -> list[tuple[int, int, int, int]]:
        return chiral_centres(self.molecule.elements, self.bonds)

    # -- densities ----------------------------------------------------------------------------------------------

    def log_density(self, x: Tensor) -> Tensor:
        """-E / kT, regularised: positions (*B, N, 3) in nm -> (*B).

        Raises:
            NonFiniteError: a position is not finite; or an energy is not, with energy_cut=None. The message names the sample.
        """
        check_event(x, self.event_shape, self._who)
        return -reduced_energy(x, self._reduced, self._who)

    def softened(self, margin: float) -> Self:
        """The same density, but energies more than a margin (kT) above the minimum near the own structure count by their logarithm only.

        To train with: few clashes among many samples then leave the gradient to the others. Without a structure, the target itself.
        """
        if self.molecule.positions is None:
            return self
        made = copy.copy(self)
        lowest = float(self.potential_energy(self.minimized())) / self.thermal_energy
        made.energy_cut = lowest + positive_number(margin, f"{self._who}.softened", "margin")
        return made

    def potential_energy(self, x: Tensor) -> Tensor:
        """E in kJ/mol as OpenMM gives it, NaN where atoms lie on each other: (*B, N, 3) -> (*B), float64, without gradient."""
        check_event(x, self.event_shape, self._who)
        flat = x.detach().reshape(-1, *self._sizes).to("cpu", torch.float64).numpy()
        return torch.from_numpy(self._energies(flat, self._who)[0]).reshape(x.shape[:-2]).to(x.device)

    @property
    def _sizes(self) -> tuple[int, int]:
        atoms = self.event_shape[0]
        assert atoms is not None
        return atoms, 3

    def _reduced(self, x: Array) -> tuple[Array, Array]:
        energy, force = self._energies(x, self._who)
        u, gradient = energy / self.thermal_energy, -force / self.thermal_energy
        if self.energy_cut is None:
            check_energies(u, self._who)
            return u, gradient
        return regularized(u, gradient, self.energy_cut, self.energy_cap)

    # -- structures ---------------------------------------------------------------------------------------------

    def minimized(self, x: Tensor | None = None, *, tolerance: float = 0.1) -> Tensor:
        """The nearest minimum of the energy: (*B, N, 3) in nm, by default from the molecule's own structure.

        Args:
            x: structures to start from.
            tolerance: root mean square force at which to stop, kJ/mol/nm.
        """
        start = self._start() if x is None else x
        openmm = require(self._who)
        context = make_context(self.molecule.system, self.platform, self._who)
        found = []
        for positions in start.detach().reshape(-1, *self._sizes).to("cpu", torch.float64).numpy():
            context.setPositions(positions)
            openmm.LocalEnergyMinimizer.minimize(context, tolerance, 0)
            found.append(context.getState(getPositions=True).getPositions(asNumpy=True)._value)
        return torch.from_numpy(np.array(found).reshape(start.shape)).to(start)

    def simulate(
        self,
        steps: int,
        *,
        stride: int = 100,
        start: Tensor | None = None,
        temperatures: Sequence[float] = (),
        warm_up: int = 5000,
        exchange_every: int = 500,
        time_step: float = 1.0,
        friction: float = 1.0,
        seed: int = 0,
        progress: bool = False,
    ) -> Tensor:
        """Structures of a Langevin trajectory at the target's temperature, or of replica exchange: (steps // stride, N, 3) in nm, float64.

        A step of a few dozen atoms costs some 40 microseconds on ``Reference``. Bonds to hydrogen are not constrained, hence 1 fs.

        Args:
            steps: of each replica; stride: steps between two frames.
            start: (N, 3), or (R, N, 3) for the replicas in turn; default the molecule's own structure.
            temperatures: higher ones, of further replicas that exchange places with it, in kelvin: a ladder such as (370, 460, 570, 700) carries
                over barriers that room temperature does not cross.
            warm_up: steps before the first frame; exchange_every: steps between attempts.
            time_step: in femtoseconds; friction: in 1 / picosecond.
            seed: of velocities, noise and exchanges.
            progress: show a bar on standard error.

        Raises:
            NonFiniteError: a trajectory blew up.
        """
        who = f"{self._who}.simulate"
        counts = {"steps": steps, "stride": stride, "exchange_every": exchange_every}
        steps, stride, exchange_every = (positive(value, who, name) for name, value in counts.items())
        rates = positive_number(time_step, who, "time_step"), positive_number(friction, who, "friction")
        plan = Plan(steps, whole_number(warm_up, who, "warm_up", 0), stride, *rates, exchange_every, whole_number(seed, who, "seed", 0))
        ladder = [self.temperature, *(positive_number(value, who, "temperatures") for value in temperatures)]
        first = (self._start() if start is None else start).detach().to("cpu", torch.float64)
        check_event(first, self.event_shape, who)
        with progress_bar("simulate", plan.warm_up + steps, show=progress) as advance:
            found = trajectory(self.molecule.system, self.platform, ladder, first.numpy(), plan, advance, who)
        return torch.from_numpy(found)

    def _start(self) -> Tensor:
        if self.molecule.positions is None:
            raise ConfigError(f"{self._who}: an openmm.System has no positions. Pass a structure (N, 3), in nm.")
        return torch.from_numpy(self.molecule.positions)

    def same_handedness(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        """Whether every chiral centre is as in the reference: (*B, N, 3) -> (*B) booleans.

        The energy of a mirror image is the same, but no trajectory gets there: such samples are left out of training and have weight zero.

        Args:
            reference: one structure (N, 3); default the molecule's own.
        """
        check_event(x, self.event_shape, self._who)
        if not self._centres:
            return torch.ones(x.shape[:-2], dtype=torch.bool, device=x.device)
        centres = torch.tensor(self._centres, device=x.device)
        wanted = handedness((self._start() if reference is None else reference).to(x), centres)
        return (handedness(x, centres) == wanted).all(-1)

    def close(self) -> None:
        """End the worker processes; they start again when next needed."""
        self._energies.close()


def described(names: Sequence[str], elements: Sequence[str], residues: Sequence[tuple[str, int]], bonds: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What files say of atoms, as plain lists."""
    return {"names": [*names], "elements": [*elements], "residues": [[*part] for part in residues], "bonds": [[*pair] for pair in bonds]}
