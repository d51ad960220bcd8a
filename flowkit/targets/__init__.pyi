"""Written by ``make stubs``."""

from flowkit.targets.alanine_dipeptide import AlanineDipeptide as AlanineDipeptide
from flowkit.targets.double_well4 import DoubleWell4 as DoubleWell4
from flowkit.targets.energy_2d import Energy2D as Energy2D
from flowkit.targets.funnel import Funnel as Funnel
from flowkit.targets.gaussian_mixture import GaussianMixture as GaussianMixture
from flowkit.targets.lennard_jones import LennardJones as LennardJones
from flowkit.targets.log_gaussian_cox import LogGaussianCox as LogGaussianCox
from flowkit.targets.many_well import ManyWell as ManyWell
from flowkit.targets.openmm_target import OpenMMTarget as OpenMMTarget
from flowkit.targets.phi4 import Phi4 as Phi4
from flowkit.targets.u1_lattice import U1Lattice as U1Lattice
