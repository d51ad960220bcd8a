"""Written by ``make stubs``."""

from flowkit.core.algebra.inverse_surjection import InverseSurjection as InverseSurjection
from flowkit.core.algebra.surjective_chain import SurjectiveChain as SurjectiveChain
from flowkit.surjections.absolute import Absolute as Absolute
from flowkit.surjections.annealing import Annealing as Annealing
from flowkit.surjections.hamiltonian import Hamiltonian as Hamiltonian
from flowkit.surjections.langevin import Langevin as Langevin
from flowkit.surjections.max_pool import MaxPool as MaxPool
from flowkit.surjections.metropolis import Metropolis as Metropolis
from flowkit.surjections.slice import Slice as Slice
from flowkit.surjections.sort import Sort as Sort
from flowkit.surjections.stochastic_permutation import StochasticPermutation as StochasticPermutation
from flowkit.surjections.uniform_dequantization import UniformDequantization as UniformDequantization
from flowkit.surjections.variational_dequantization import VariationalDequantization as VariationalDequantization
from flowkit.surjections.variational_step import VariationalStep as VariationalStep
from flowkit.surjections.wrap import Wrap as Wrap
