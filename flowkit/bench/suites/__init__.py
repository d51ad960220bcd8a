"""The suites, one file each."""

from __future__ import annotations

import importlib
import pkgutil

from flowkit.bench.suites.suite import SUITES, Suite

for _info in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_info.name}")

__all__ = ["SUITES", "Suite"]
