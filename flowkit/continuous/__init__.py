"""Velocity fields of continuous flows, and fields made from other fields."""

from flowkit.core.build import discover

__all__: list[str] = []
discover(__name__)
