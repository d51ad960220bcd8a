"""From a description to a module: registered classes only, every value checked against the constructor's annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from flowkit.core.build.coerce import Coercer, type_name
from flowkit.core.build.describe import constructor_hints, constructor_parameters
from flowkit.core.errors import ConfigError, FlowkitError, UnknownNameError, nearest
from flowkit.core.registry import NETS, REGISTRIES, Registry

T = TypeVar("T")


def build(description: Any, expected: type[T] | Registry, *, weights: Mapping[str, Tensor] | None = None, path: str = "") -> T:
    """Build what a description names.

    Args:
        description: ``{name: ..., **arguments}``, or a bare name, or an instance (returned as it is).
        expected: the contract that must come out (``Bijector``, ``Flow``, ...), or a registry to look in.
        weights: tensors that ``{weights: key}`` refers to.
        path: where the description stands in a config, for messages.

    Raises:
        UnknownNameError, ConfigError: with the path of the key, what was expected and the nearest name.
    """
    return _Builder(weights or {}).make(description, expected, path)


class _Builder:
    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.known: dict[str, Any] = {}

    def make(self, description: Any, expected: Any, path: str) -> Any:
        if not isinstance(expected, Registry) and isinstance(description, expected):
            return description
        if isinstance(description, str):
            description = {"name": description}
        if not isinstance(description, Mapping):
            raise ConfigError(f"{path or 'description'}: expected {{name: ..., **arguments}}; got {description!r}.")
        if "ref" in description:
            return self._referenced(description, path)
        if "name" not in description:
            raise ConfigError(f"{path or 'description'}: expected a key 'name' with a registered name; got keys {sorted(map(str, description))}.")
        cls = self._lookup(description["name"], expected, path)
        arguments = {key: value for key, value in description.items() if key not in ("name", "id")}
        made = self._construct(cls, arguments, path or str(description["name"]))
        if "id" in description:
            self.known[str(description["id"])] = made
        return made

    def _referenced(self, description: Mapping[str, Any], path: str) -> Any:
        if description["ref"] not in self.known:
            raise ConfigError(f"{path}: ref {description['ref']!r} has no id before it. {nearest(str(description['ref']), self.known)}")
        return self.known[description["ref"]]

    def _lookup(self, name: Any, expected: Any, path: str) -> type:
        registries = (expected,) if isinstance(expected, Registry) else getattr(expected, "registries", (NETS,))
        for registry in registries:
            if isinstance(name, str) and name in registry:
                found = registry[name]
                if isinstance(expected, type) and expected is not nn.Module and not issubclass(found, expected):
                    continue
                return found
        options = [other for registry in registries for other in registry]
        elsewhere = [registry.kind for registry in REGISTRIES.values() if isinstance(name, str) and name in registry]
        hint = f"'{name}' is a {elsewhere[0]}, not a {registries[0].kind}." if elsewhere and name not in options else nearest(str(name), options)
        where = f"{path}: " if path else ""
        raise UnknownNameError(f"{where}No {registries[0].kind} named {name!r}. {hint} List them with: flowkit list {registries[0].plural}")

    def _construct(self, cls: type, arguments: dict[str, Any], path: str) -> Any:
        named, hints = constructor_parameters(cls), constructor_hints(cls)
        coercer = Coercer(self.make, self.weights)
        values: dict[str, Any] = {}
        for key, value in arguments.items():
            if key not in named:
                raise UnknownNameError(f"{path}.{key}: unknown argument of {cls.__name__}. {nearest(str(key), named)}")
            values[key] = coercer.coerce(value, hints.get(key, Any), f"{path}.{key}")
        missing = [key for key, p in named.items() if p.default is p.empty and key not in values]
        if missing:
            wanted = ", ".join(f"{key} ({type_name(hints.get(key, Any))})" for key in missing)
            raise ConfigError(f"{path}: {cls.__name__} needs {wanted}.")
        try:
            return cls(**values)
        except FlowkitError as error:
            if path and not str(error).startswith(path):
                raise type(error)(f"{path}: {error}") from error
            raise
