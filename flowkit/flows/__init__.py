"""Recipes: flows by the names of their papers, and ``Flow`` itself."""

from flowkit.core.build import discover
from flowkit.core.conditioned import Conditioned
from flowkit.core.flow import Flow

__all__ = ["Conditioned", "Flow"]
discover(__name__)
