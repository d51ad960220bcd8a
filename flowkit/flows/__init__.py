"""Recipes: flows by the names of their papers, and ``Flow`` itself."""

from flowkit.core.build import discover
from flowkit.core.flow import Flow

__all__ = ["Flow"]
discover(__name__)
