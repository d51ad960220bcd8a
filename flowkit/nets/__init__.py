"""Conditioners and embeddings; they know nothing of flows."""

from flowkit.core.build import discover

__all__: list[str] = []
discover(__name__)
