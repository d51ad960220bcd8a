"""Adapters to other libraries: ``nflows``, ``zuko``, ``torch_distributions``, ``torchcfm`` and ``pyro``, each imported when it is first used."""

from importlib import import_module
from types import ModuleType

__all__ = ["nflows", "pyro", "torch_distributions", "torchcfm", "zuko"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"flowkit.interop.{name}")
    raise AttributeError(f"module 'flowkit.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
