"""Written by ``make stubs``."""

from flowkit.core.domain.ball import Ball as Ball
from flowkit.core.domain.box import Box as Box
from flowkit.core.domain.correlation_cholesky import CorrelationCholesky as CorrelationCholesky
from flowkit.core.domain.domain import Domain as Domain
from flowkit.core.domain.half_space import HalfSpace as HalfSpace
from flowkit.core.domain.integers import Integers as Integers
from flowkit.core.domain.lower_cholesky import LowerCholesky as LowerCholesky
from flowkit.core.domain.manifold import Manifold as Manifold
from flowkit.core.domain.mean_free import MeanFree as MeanFree
from flowkit.core.domain.ordered import Ordered as Ordered
from flowkit.core.domain.polytope import Polytope as Polytope
from flowkit.core.domain.product import Product as Product
from flowkit.core.domain.real import Real as Real
from flowkit.core.domain.simplex import Simplex as Simplex
from flowkit.core.domain.so3 import SO3 as SO3
from flowkit.core.domain.sphere import Sphere as Sphere
from flowkit.core.domain.torus import Torus as Torus
