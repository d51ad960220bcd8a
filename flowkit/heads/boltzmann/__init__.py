"""Boltzmann generators: flows that sample the structures of a molecule, and weights that make the samples exact."""

from flowkit.heads.boltzmann.basins import FreeEnergyDifference, free_energy_difference, ramachandran_divergence
from flowkit.heads.boltzmann.generator import BoltzmannGenerator
from flowkit.heads.boltzmann.report import GeneratorReport
from flowkit.heads.boltzmann.structure_files import write_pdb, write_xyz
from flowkit.heads.boltzmann.umbrella import Umbrella, umbrella

__all__ = [
    "BoltzmannGenerator",
    "FreeEnergyDifference",
    "GeneratorReport",
    "Umbrella",
    "free_energy_difference",
    "ramachandran_divergence",
    "umbrella",
    "write_pdb",
    "write_xyz",
]
