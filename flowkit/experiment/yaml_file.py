"""YAML as configs use it: plain values only, ``3e-4`` and ``1e6`` are numbers, a key may stand once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from flowkit.core.errors import ConfigError

_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$")


def read_yaml(path: str | Path) -> Any:
    """The tree in a file.

    Raises:
        ConfigError: the file cannot be read or is not YAML; the message has the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror}). Give the path of a .yaml file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8. Give the path of a .yaml file.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The tree in a text; ``where`` names it in messages."""
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        raise ConfigError(f"{where}{line}: {error.problem or error.context}. Mend the YAML there.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not YAML ({' '.join(str(error).split())}). Mend the file.") from None
    try:
        json.dumps(tree)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected numbers, texts, lists and mappings only; {error}. Quote dates; drop anchors that hold themselves.") from None
    return tree


def to_yaml(tree: Any) -> str:
    """A tree as YAML that ``parse_yaml`` reads back unchanged; lists of plain values on one line."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the floats of YAML 1.2, and without silent overwriting."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper for the trees of ``_Loader``."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True) if key_node.tag != "tag:yaml.org,2002:merge" else None
        if key is not None and (not isinstance(key, str | int | float) or key in seen):
            problem = f"the key {key!r} stands twice" if isinstance(key, str | int | float) else "a key must be a name or a number"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


def _list(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    plain = not any(isinstance(item, list | dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=plain)


def _resolvers(table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Without PyYAML's own floats, and its dates: a config has no use for them."""
    dropped = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    return {first: [(tag, pattern) for tag, pattern in rules if tag not in dropped] for first, rules in table.items()}


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(tuple, lambda dumper, items: _list(dumper, list(items)))
