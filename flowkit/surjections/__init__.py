"""Maps that lose information or draw, one class a file, and the algebra that combines them."""

from flowkit.core.algebra import InverseSurjection, SurjectiveChain
from flowkit.core.build import discover

__all__ = ["InverseSurjection", "SurjectiveChain"]
discover(__name__)
