"""The algebra of maps: composition, inverse, direct sum, index, power, simplification."""

from flowkit.core.algebra.chain import Chain
from flowkit.core.algebra.concat import Concat
from flowkit.core.algebra.identity import Identity
from flowkit.core.algebra.indexed import Indexed
from flowkit.core.algebra.inverse import Inverse
from flowkit.core.algebra.inverse_surjection import InverseSurjection
from flowkit.core.algebra.operators import power
from flowkit.core.algebra.simplify import simplify
from flowkit.core.algebra.surjective_chain import SurjectiveChain

__all__ = ["Chain", "Concat", "Identity", "Indexed", "Inverse", "InverseSurjection", "SurjectiveChain", "power", "simplify"]
