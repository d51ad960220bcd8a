"""Scalar maps for coupling, autoregression and `Elementwise`."""

from flowkit.core.build import discover

__all__: list[str] = []
discover(__name__)
