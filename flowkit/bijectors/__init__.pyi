"""Written by ``make stubs``."""

from flowkit.bijectors.act_norm import ActNorm as ActNorm
from flowkit.bijectors.affine import Affine as Affine
from flowkit.bijectors.autoregressive import Autoregressive as Autoregressive
from flowkit.bijectors.coupling import Coupling as Coupling
from flowkit.bijectors.elementwise import Elementwise as Elementwise
from flowkit.bijectors.householder import Householder as Householder
from flowkit.bijectors.lu_linear import LULinear as LULinear
from flowkit.bijectors.numerical_inverse import NumericalInverse as NumericalInverse
from flowkit.bijectors.permutation import Permutation as Permutation
from flowkit.bijectors.reshape import Reshape as Reshape
from flowkit.bijectors.standardize import Standardize as Standardize
from flowkit.bijectors.to_ball import ToBall as ToBall
from flowkit.bijectors.to_box import ToBox as ToBox
from flowkit.bijectors.to_half_space import ToHalfSpace as ToHalfSpace
from flowkit.bijectors.to_simplex import ToSimplex as ToSimplex
from flowkit.core.algebra.chain import Chain as Chain
from flowkit.core.algebra.concat import Concat as Concat
from flowkit.core.algebra.identity import Identity as Identity
from flowkit.core.algebra.indexed import Indexed as Indexed
from flowkit.core.algebra.inverse import Inverse as Inverse
