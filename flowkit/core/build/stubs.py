"""Write the ``__init__.pyi`` of plug-in packages, so that editors and type checkers see what ``discover`` exports."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

PACKAGES = (
    "flowkit.core.domain",
    "flowkit.nets",
    "flowkit.univariates",
    "flowkit.bijectors",
    "flowkit.injections",
    "flowkit.surjections",
    "flowkit.continuous",
    "flowkit.targets",
    "flowkit.distributions",
    "flowkit.objectives",
    "flowkit.flows",
    "flowkit.data",
)


def stub_text(package: ModuleType) -> str:
    """The stub of one package: a line per exported class."""
    lines = []
    for name in package.__all__:
        home = inspect.getmodule(getattr(package, name))
        assert home is not None
        lines.append(f"from {home.__name__} import {name} as {name}")
    return '"""Written by ``make stubs``."""\n\n' + "\n".join(sorted(lines)) + "\n"


def write_stubs() -> list[Path]:
    """Write every stub; returns the files that changed."""
    changed = []
    for name in PACKAGES:
        package = importlib.import_module(name)
        assert package.__file__ is not None
        path, text = Path(package.__file__).with_suffix(".pyi"), stub_text(package)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    return changed


if __name__ == "__main__":
    sys.stdout.write("".join(f"{path.name} of {path.parent.name} written\n" for path in write_stubs()))
