"""Optional packages."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flowkit.core.errors import ConfigError


def require(package: str, install: str, who: str) -> Any:
    """The imported package, or one error that says how to get it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ConfigError(f"{who}: needs {package}. Install it with: pip install {install}") from None
