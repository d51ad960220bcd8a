"""Dotted overrides: ``--flow.bins 16`` changes one value of a config's tree."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from flowkit.core.errors import ConfigError, UnknownNameError, nearest
from flowkit.experiment.yaml_file import parse_yaml


def override(tree: Mapping[str, Any], changes: Iterable[tuple[str, str]], keys: Iterable[str]) -> dict[str, Any]:
    """A copy of a config's tree with values changed.

    Args:
        tree: of a config.
        changes: (dotted path, value as YAML) in order; items of a list are given by number.
        keys: that may stand at the top.

    Raises:
        UnknownNameError: the first part of a path is none of ``keys``.
        ConfigError: a path leads through a plain value, or beside a list.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(tree))
    for path, text in changes:
        parts = path.split(".")
        if parts[0] not in keys:
            raise UnknownNameError(f"--{path}: a config has no key '{parts[0]}'. {nearest(parts[0], keys)}")
        if not all(parts):
            raise ConfigError(f"--{path}: expected names joined by single dots, such as --flow.bins.")
        _set(changed, parts, parse_yaml(text, f"--{path}"), path)
    return changed


def _set(tree: dict[str, Any], parts: list[str], value: Any, path: str) -> None:
    place: Any = tree
    for depth, part in enumerate(parts[:-1]):
        key = _key(place, part, path)
        inner = place.get(key) if isinstance(place, dict) else place[key]
        if inner is None or isinstance(inner, str):
            # a bare name is short for {name: it}
            if parts[depth + 1].isdigit():
                whole = ".".join(parts[: depth + 1])
                raise ConfigError(f"--{path}: '{whole}' is no list here. Give the whole list, as --{whole} '[1, 2]'.")
            inner = {} if inner is None else {"name": inner}
            place[key] = inner
        place = inner
    place[_key(place, parts[-1], path)] = value


def _key(place: Any, part: str, path: str) -> Any:
    """The key or list index that a part of a path means."""
    if isinstance(place, dict):
        return int(part) if part not in place and part.isdigit() and int(part) in place else part
    if not isinstance(place, list):
        raise ConfigError(f"--{path}: '{part}' cannot be set inside the value {place!r}. Leave it out of the path.")
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f"--{path}: expected the number of an item, 0 to {len(place) - 1}; got '{part}'.")
    return int(part)
