"""Sets that maps and densities are defined on: one class a file, registered in DOMAINS."""

from flowkit.core.build.discovery import discover

__all__: list[str] = []
discover(__name__)
