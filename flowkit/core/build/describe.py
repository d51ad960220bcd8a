"""From a module to its description."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import registered_name

SMALL = 64  # tensors up to this many numbers are written into the description itself


def describe(module: nn.Module, weights: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Write a registered module as ``{name: ..., **arguments}``, defaults included: a saved flow outlives a change of them.

    A module met twice is written once with ``id:`` and then as ``{ref: id}``. Tensors of at most 64 numbers are written
    as ``{tensor: [...], dtype: ...}``; larger ones go to ``weights`` and are written as ``{weights: key}``.

    Args:
        module: an instance of a registered class, whose constructor stored its arguments unchanged.
        weights: collects large tensors; without it a large tensor is an error.

    Raises:
        ConfigError: a module in it is not registered; the message has the path of the argument.
    """
    return _Writer(weights).module(module, type(module).__name__)


class _Writer:
    def __init__(self, weights: dict[str, Tensor] | None) -> None:
        self.weights = weights
        self.seen: dict[int, dict[str, Any]] = {}

    def module(self, module: nn.Module, path: str) -> dict[str, Any]:
        if id(module) in self.seen:
            first = self.seen[id(module)]
            first.setdefault("id", f"m{sum('id' in other for other in self.seen.values())}")
            return {"ref": first["id"]}
        name = registered_name(type(module))
        if name is None:
            raise ConfigError(
                f"{path}: {type(module).__qualname__} is not registered, so it cannot be saved. "
                "Decorate the class with the registry of its kind, e.g. @NETS.register('my_net')."
            )
        written: dict[str, Any] = {"name": name}
        self.seen[id(module)] = written
        for key in constructor_parameters(type(module)):
            if not hasattr(module, key):
                raise ConfigError(f"{path}: {type(module).__qualname__} does not store its argument '{key}', so it cannot be described.")
            written[key] = self.value(getattr(module, key), f"{path}.{key}")
        return written

    def value(self, value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            return self.value(value.tolist(), path)
        if isinstance(value, nn.ModuleList | list | tuple | range):
            return [self.value(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, nn.Module):
            return self.module(value, path)
        if isinstance(value, Tensor):
            return self.tensor(value, path)
        if isinstance(value, Mapping):
            return {str(key): self.value(item, f"{path}.{key}") for key, item in value.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ConfigError(f"{path}: cannot describe a value of type {type(value).__name__}. Use numbers, strings, tensors or registered modules.")

    def tensor(self, value: Tensor, path: str) -> dict[str, Any]:
        if value.numel() <= SMALL:
            return {"tensor": value.detach().tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
        if self.weights is None:
            raise ConfigError(f"{path}: a tensor of {value.numel()} numbers needs a weights store; use flowkit.save.")
        self.weights[path] = value.detach()
        return {"weights": path}


def brief_arguments(module: nn.Module) -> str:
    """Constructor arguments that are plain values, for a module's repr: ``features=4, hidden=(64, 64)``."""
    shown = []
    for key in constructor_parameters(type(module)):
        value = getattr(module, key, None)
        if isinstance(value, bool | int | float | str) or (isinstance(value, tuple) and all(isinstance(v, bool | int | float | str) for v in value)):
            shown.append(f"{key}={value!r}")
    return ", ".join(shown)


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The named arguments of a constructor; ``**options`` stands for the arguments of the class it derives from."""
    named: dict[str, inspect.Parameter] = {}
    for base in _constructors(cls):
        found = inspect.signature(base.__init__).parameters  # type: ignore[misc]
        named |= {key: p for key, p in found.items() if key not in {"self", *named} and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    return named


def constructor_hints(cls: type) -> dict[str, Any]:
    """The annotations of those arguments, resolved."""
    hints: dict[str, Any] = {}
    for base in _constructors(cls):
        hints = typing.get_type_hints(base.__init__) | hints  # type: ignore[misc]
    return hints


def _constructors(cls: type) -> list[type]:
    """The classes whose constructors take the arguments: the first with one, and on while ``**options`` are passed up."""
    taken: list[type] = []
    for base in cls.__mro__:
        if base is nn.Module:
            break
        if "__init__" in base.__dict__:
            taken.append(base)
            if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(base.__init__).parameters.values()):  # type: ignore[misc]
                break
    return taken


def dtype_of(name: str) -> torch.dtype | None:
    """The torch dtype of a name such as ``float32``, or None."""
    dtype = getattr(torch, name, None)
    return dtype if isinstance(dtype, torch.dtype) else None
