"""The one description language: nested ``{name: <registered>, **arguments}``, written and read here."""

from flowkit.core.build.builder import build
from flowkit.core.build.describe import describe
from flowkit.core.build.discovery import discover

__all__ = ["build", "describe", "discover"]
