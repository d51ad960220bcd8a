"""Import every file of a plug-in package and export the one public class of each."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys


def discover(package: str) -> None:
    """Fill a package's namespace from its files; called in a plug-in package's ``__init__``.

    Args:
        package: the package's ``__name__``.

    Raises:
        ImportError: a file holds no public class, or more than one.
    """
    module = sys.modules[package]
    exported = list(getattr(module, "__all__", []))
    for info in pkgutil.iter_modules(module.__path__):
        if info.name.startswith("_") or info.ispkg:
            continue
        file = importlib.import_module(f"{package}.{info.name}")
        public = public_classes(file)
        if len(public) != 1:
            raise ImportError(f"{file.__name__}: expected one public class; found {[cls.__name__ for cls in public]}.")
        setattr(module, public[0].__name__, public[0])
        exported.append(public[0].__name__)
    module.__all__ = sorted(set(exported))  # type: ignore[attr-defined]


def public_classes(module: object) -> list[type]:
    """Classes defined in a module whose names do not start with an underscore."""
    name = getattr(module, "__name__", "")
    members = inspect.getmembers(module, inspect.isclass)
    return [cls for label, cls in members if cls.__module__ == name and not label.startswith("_")]
