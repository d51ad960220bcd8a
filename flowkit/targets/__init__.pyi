"""Written by ``make stubs``."""

from flowkit.targets.double_well4 import DoubleWell4 as DoubleWell4
from flowkit.targets.lennard_jones import LennardJones as LennardJones
from flowkit.targets.many_well import ManyWell as ManyWell
