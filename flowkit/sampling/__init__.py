"""Sampling from densities known up to a constant: weights, annealing, Markov chains, free energies."""

from flowkit.sampling.acceptance_ratio import bar
from flowkit.sampling.annealed import Annealed, annealed
from flowkit.sampling.chains import Chains
from flowkit.sampling.free_energy import FreeEnergies, FreeEnergy
from flowkit.sampling.hmc import hmc
from flowkit.sampling.importance import importance
from flowkit.sampling.independence import independence
from flowkit.sampling.integration import ti
from flowkit.sampling.langevin import langevin
from flowkit.sampling.multistate import mbar
from flowkit.sampling.perturbation import fep, tfep
from flowkit.sampling.smc import Particles, smc
from flowkit.sampling.weighted import Weighted

__all__ = [
    "Annealed",
    "Chains",
    "FreeEnergies",
    "FreeEnergy",
    "Particles",
    "Weighted",
    "annealed",
    "bar",
    "fep",
    "hmc",
    "importance",
    "independence",
    "langevin",
    "mbar",
    "smc",
    "tfep",
    "ti",
]
