"""Reading one value of a description as the type an annotation asks for."""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

import torch
from torch import Tensor, nn

from flowkit.core.build.describe import dtype_of
from flowkit.core.errors import ConfigError, FlowkitError, UnknownNameError, nearest

_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)


class Coercer:
    """Checks and converts plain values; modules are handed to ``make``."""

    def __init__(self, make: Callable[[Any, Any, str], Any], weights: Mapping[str, Tensor]) -> None:
        self.make = make
        self.weights = weights

    def coerce(self, value: Any, annotation: Any, path: str) -> Any:
        """``value`` as ``annotation``, or ConfigError with the path, the expected type and what was got."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation is Any:
            return self._anything(value, path)
        if origin in (Union, types.UnionType):
            return self._union(value, arguments, path)
        if origin is Literal:
            if value not in arguments:
                raise ConfigError(f"{path}: expected one of {', '.join(map(repr, arguments))}; got {value!r}. {nearest(str(value), map(str, arguments))}")
            return value
        if (origin or annotation) in _SEQUENCES:
            return self._sequence(value, origin or annotation, arguments, path)
        if (origin or annotation) in _MAPPINGS:
            return self._mapping(value, arguments, path)
        if annotation is Tensor:
            return self._tensor(value, path)
        if isinstance(annotation, type) and issubclass(annotation, nn.Module):
            return self.make(value, annotation, path)
        return _scalar(value, annotation, path)

    def _union(self, value: Any, options: tuple[Any, ...], path: str) -> Any:
        if value is None and type(None) in options:
            return None
        errors: list[FlowkitError] = []
        for option in sorted((o for o in options if o is not type(None)), key=lambda option: not _exact(value, option)):
            try:
                return self.coerce(value, option, path)
            except FlowkitError as error:
                errors.append(error)
        named = isinstance(value, Mapping) and "name" in value
        specific = [e for e in errors if isinstance(e, UnknownNameError) or named]
        if len(errors) == 1 or specific:
            raise (specific or errors)[0]
        raise ConfigError(f"{path}: expected {' or '.join(type_name(o) for o in options)}; got {value!r}.")

    def _sequence(self, value: Any, kind: Any, arguments: tuple[Any, ...], path: str) -> Any:
        if _is_tensor(value):
            value = self._tensor(value, path).tolist()
        if isinstance(value, Tensor | str | Mapping) or not isinstance(value, collections.abc.Iterable):
            raise ConfigError(f"{path}: expected a list; got {value!r}.")
        items = list(value)
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(items) != len(arguments):
                raise ConfigError(f"{path}: expected {len(arguments)} items; got {len(items)}.")
            return tuple(self.coerce(item, a, f"{path}[{i}]") for i, (item, a) in enumerate(zip(items, arguments, strict=True)))
        inner = arguments[0] if arguments else Any
        read = [self.coerce(item, inner, f"{path}[{i}]") for i, item in enumerate(items)]
        return read if kind is list else tuple(read)

    def _mapping(self, value: Any, arguments: tuple[Any, ...], path: str) -> Any:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping; got {value!r}.")
        inner = arguments[1] if len(arguments) == 2 else Any
        return {key: self.coerce(item, inner, f"{path}.{key}") for key, item in value.items()}

    def _tensor(self, value: Any, path: str) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Mapping) and set(value) == {"weights"}:
            if value["weights"] not in self.weights:
                raise ConfigError(f"{path}: no tensor {value['weights']!r} in the weights.")
            return self.weights[value["weights"]]
        numbers, dtype = value, None
        if isinstance(value, Mapping) and "tensor" in value and set(value) <= {"tensor", "dtype"}:
            numbers, dtype = value["tensor"], dtype_of(str(value.get("dtype", "float32")))
            if dtype is None:
                raise ConfigError(f"{path}.dtype: expected a torch dtype such as float32; got {value.get('dtype')!r}.")
        try:
            return torch.tensor(numbers, dtype=dtype)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(f"{path}: expected a tensor as {{tensor: [...], dtype: float32}} or a list of numbers; got {value!r}.") from None

    def _anything(self, value: Any, path: str) -> Any:
        if _is_tensor(value):
            return self._tensor(value, path)
        return value


def _scalar(value: Any, annotation: Any, path: str) -> Any:
    if annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if annotation is float and isinstance(value, str) and value.lstrip("+-.").lower() in ("inf", "infinity"):
        return float(value.replace(".inf", "inf"))
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if annotation in (int, float, str, bool) and type(value) is annotation:
        return value
    if annotation is type(None) and value is None:
        return None
    if annotation not in (int, float, str, bool, type(None)) and (not isinstance(annotation, type) or isinstance(value, annotation)):
        return value
    raise ConfigError(f"{path}: expected {type_name(annotation)}; got {value!r}.")


def _exact(value: Any, option: Any) -> bool:
    """Whether a union's option fits a plain value without conversion; such options are tried first."""
    return isinstance(option, type) and (type(value) is option or (option is Tensor and _is_tensor(value)))


def _is_tensor(value: Any) -> bool:
    """Whether a value of a description stands for a tensor."""
    return isinstance(value, Mapping) and ("tensor" in value or set(value) == {"weights"})


def type_name(annotation: Any) -> str:
    """A type as a person would write it."""
    if annotation is type(None):
        return "null"
    if typing.get_origin(annotation) is Literal:
        return " | ".join(map(repr, typing.get_args(annotation)))
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return {"int": "an int", "float": "a number", "str": "a string", "bool": "true or false"}.get(annotation.__name__, annotation.__name__)
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")
