"""Registries: a plug-in is a class decorated with ``@BIJECTORS.register("name")`` and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from flowkit.core.errors import ConfigError, UnknownNameError, nearest

C = TypeVar("C", bound=type)


class Registry(Mapping[str, Any]):
    """Name -> class. Iterates names in sorted order; aliases are found but not listed.

    Example:
        >>> from flowkit.core.registry import BIJECTORS
        >>> "affine" in BIJECTORS
        True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.plural = kind if kind == "data" else f"{kind}s"
        self._classes: dict[str, Any] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, *aliases: str) -> Callable[[C], C]:
        """Class decorator: file the class under ``name``; it needs a classmethod ``examples``."""

        def decorate(cls: C) -> C:
            for known in (name, *aliases):
                other = self.get(known)
                if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                    raise ConfigError(f"{self.kind} registry: '{known}' is taken by {other.__qualname__}; choose another name for {cls.__qualname__}.")
            self._classes[name] = cls
            self._aliases.update(dict.fromkeys(aliases, name))
            cls.registered_name = name  # type: ignore[attr-defined]
            cls.registered_in = self  # type: ignore[attr-defined]
            return cls

        return decorate

    def __getitem__(self, name: str) -> Any:
        try:
            return self._classes[self._aliases.get(name, name)]
        except (KeyError, TypeError):
            near = nearest(str(name), (*self._classes, *self._aliases))
            raise UnknownNameError(f"No {self.kind} named {name!r}. {near} List them with: flowkit list {self.plural}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._aliases

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"

    def aliases(self) -> Mapping[str, str]:
        """Alias -> registered name."""
        return dict(self._aliases)


BIJECTORS = Registry("bijector")
INJECTIONS = Registry("injection")
SURJECTIONS = Registry("surjection")
UNIVARIATES = Registry("univariate")
NETS = Registry("net")
FIELDS = Registry("field")
DOMAINS = Registry("domain")
DISTRIBUTIONS = Registry("distribution")
TARGETS = Registry("target")
OBJECTIVES = Registry("objective")
COVARIANCES = Registry("covariance")
FLOWS = Registry("flow")
DATA = Registry("data")

REGISTRIES: dict[str, Registry] = {
    "bijectors": BIJECTORS,
    "injections": INJECTIONS,
    "surjections": SURJECTIONS,
    "univariates": UNIVARIATES,
    "nets": NETS,
    "fields": FIELDS,
    "domains": DOMAINS,
    "distributions": DISTRIBUTIONS,
    "targets": TARGETS,
    "objectives": OBJECTIVES,
    "covariances": COVARIANCES,
    "flows": FLOWS,
    "data": DATA,
}


def registered_name(cls: type) -> str | None:
    """The name a class itself was registered under (a subclass does not inherit it)."""
    return cls.__dict__.get("registered_name")
