"""Invertible maps, one class a file, and the algebra that combines them."""

from flowkit.core.algebra import Chain, Concat, Identity, Indexed, Inverse
from flowkit.core.build import discover

__all__ = ["Chain", "Concat", "Identity", "Indexed", "Inverse"]
discover(__name__)
