"""Maps into a larger space, one class a file."""

from flowkit.core.build import discover

__all__: list[str] = []
discover(__name__)
