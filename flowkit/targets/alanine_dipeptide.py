"""Alanine dipeptide in implicit solvent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event
from flowkit.targets import _peptide
from flowkit.targets._geometry import dihedral
from flowkit.targets._molecular_target import CAP, CUT, MolecularTarget, described
from flowkit.targets._openmm import Molecule, force_field_system, is_installed, molecule_of, require, topology_of


@TARGETS.register("alanine_dipeptide")
class AlanineDipeptide(MolecularTarget):
    """log p(x) = -E(x) / kT of ACE-ALA-NME, 22 atoms in nanometres, AMBER99SB-ILDN with OBC implicit solvent, through OpenMM.

    No cutoff and no constraints. The atoms come from a template in code, in AMBER's order; phi is the dihedral of atoms 4, 6, 8, 14 and psi
    of 6, 8, 14, 16. The energy does not change under rotations and translations, nor under a mirror, which turns the L form into the D
    form; ``same_handedness`` tells them apart. log_normalizer is None: the density has no finite integral over translations.

    Energies are evaluated in float64, one structure after the other (some 60 microseconds each), and the forces are the exact gradient.
    There are no second derivatives. OpenMM is needed when an energy is first asked for, not to build the target.

    Args:
        temperature: in kelvin.
        platform, workers, energy_cut, energy_cap: see ``OpenMMTarget``.

    Raises:
        ConfigError: OpenMM is missing, or has no such platform. NonFiniteError: positions that are not finite.

    Reference: Stimper, Midgley et al. (2022), Resampling base distributions of normalizing flows, arXiv:2110.15828, and Midgley et al.
    (2023), arXiv:2208.01893 (the molecule as a test of flows; z-matrix, regularisation); Lindorff-Larsen et al. (2010), Proteins 78,
    1950 (force field); Onufriev, Bashford, Case (2004), Proteins 55, 383 (solvent).
    """

    FORCE_FIELDS: ClassVar[tuple[str, ...]] = ("amber99sbildn.xml", "amber99_obc.xml")
    PHI: ClassVar[tuple[int, int, int, int]] = _peptide.PHI
    PSI: ClassVar[tuple[int, int, int, int]] = _peptide.PSI
    # the coordinates of FAB: three seed atoms, then (atom, bonded, angle, dihedral)
    SEED: ClassVar[tuple[int, int, int]] = (8, 6, 14)
    Z_MATRIX: ClassVar[tuple[tuple[int, int, int, int], ...]] = (
        *((0, 1, 4, 6), (1, 4, 6, 8), (2, 1, 4, 0), (3, 1, 4, 0), (4, 6, 8, 14), (5, 4, 6, 8), (7, 6, 8, 4), (9, 8, 6, 4), (10, 8, 6, 4)),
        *((11, 10, 8, 6), (12, 10, 8, 11), (13, 10, 8, 11), (15, 14, 8, 16), (16, 14, 8, 6), (17, 16, 14, 15), (18, 16, 14, 8)),
        *((19, 18, 16, 14), (20, 18, 16, 19), (21, 18, 16, 19)),
    )

    def __init__(
        self, temperature: float = 300.0, platform: str = "Reference", *, workers: int = 0, energy_cut: float | None = CUT, energy_cap: float = CAP
    ) -> None:
        super().__init__(len(_peptide.NAMES), temperature, platform, workers, energy_cut, energy_cap)

    def _molecule(self) -> Molecule:
        require(self._who)
        start = _peptide.structure(math.radians(-80.0), math.radians(150.0))
        topology = topology_of(_peptide.NAMES, _peptide.ELEMENTS, _peptide.RESIDUES, _peptide.BONDS)
        return molecule_of(topology, force_field_system(topology, self.FORCE_FIELDS, self._who), start)

    @property
    def atoms(self) -> dict[str, Any]:
        """Names, elements, residues and bonds; known without OpenMM."""
        return described(_peptide.NAMES, _peptide.ELEMENTS, _peptide.RESIDUES, _peptide.BONDS)

    def phi_psi(self, x: Tensor) -> Tensor:
        """Backbone dihedrals in (-pi, pi]: (*B, 22, 3) -> (*B, 2)."""
        check_event(x, self.event_shape, self._who)
        return torch.stack([dihedral(x, self.PHI), dihedral(x, self.PSI)], dim=-1)

    def structure(self, phi: float, psi: float) -> Tensor:
        """The L form with these dihedrals (radians) and standard bonds and angles, not minimised: (22, 3) in nm, float64."""
        return torch.from_numpy(_peptide.structure(phi, psi))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, AlanineDipeptide]]:
        if is_installed():  # an instance needs no OpenMM, a check of its energies does
            yield "room_temperature", cls()
