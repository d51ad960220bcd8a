"""What a run is: the keys of a config, read from YAML and checked."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowkit.core.build.coerce import Coercer
from flowkit.core.errors import ConfigError, UnknownNameError, nearest
from flowkit.experiment.overrides import override
from flowkit.experiment.yaml_file import read_yaml, to_yaml
from flowkit.training import fit

# what the config, the data set or the command line says elsewhere
NOT_IN_TRAINING = ("model", "source", "objective", "validation", "sample_weight", "seed", "resume", "callbacks")


@dataclass(frozen=True)
class Evaluation:
    """What is measured after a fit.

    Args:
        samples: rows in ``samples.npz``.
        baseline: compare with a Gaussian mixture chosen by BIC.
        components: of that mixture, at most.
        batch_size: events evaluated at a time.
    """

    samples: int = 10_000
    baseline: bool = True
    components: int = 20
    batch_size: int = 4096

    def __post_init__(self) -> None:
        for name in ("samples", "components", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"evaluation.{name}: expected an int >= 1; got {getattr(self, name)}.")


@dataclass(frozen=True)
class Config:
    """A run: data or a target, a flow, an objective, and how to train and evaluate.

    Args:
        name: of the run's folder; letters, digits, ``_``, ``-`` and ``.``.
        seed: of everything that is drawn.
        data, target: description of a data set, or of a target density; one of both.
        flow: description of the flow; what the data decide may be left out (``features``, ``context_features``, ``classes``,
            ``image_shape``).
        objective: description; by default maximum likelihood. It gets ``target`` if it takes one.
        training: keywords of ``flowkit.fit``.
        evaluation: fields of ``Evaluation``.
    """

    name: str
    flow: Any
    seed: int = 0
    data: Any = None
    target: Any = None
    objective: Any = "maximum_likelihood"
    training: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The tree, in the usual order, without what was not given."""
        tree = {key: getattr(self, key) for key in KEYS}
        return {key: value for key, value in tree.items() if value is not None and value != {}}

    def as_yaml(self) -> str:
        """The tree as YAML."""
        return to_yaml(self.as_dict())


KEYS = ("name", "seed", "data", "target", "flow", "objective", "training", "evaluation")


def read_config(path: str | Path, changes: Iterable[tuple[str, str]] = ()) -> Config:
    """Read a YAML config, apply dotted overrides, and check everything but what the builder checks.

    Args:
        path: the file.
        changes: (dotted path, value as YAML), in order.

    Raises:
        ConfigError, UnknownNameError: with the file, the key, and the nearest name.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping with the keys {', '.join(KEYS)}; got {'an empty file' if tree is None else type(tree).__name__}.")
    return check_config(override(tree, changes, KEYS), str(path))


def check_config(tree: Mapping[str, Any], where: str) -> Config:
    """The config in a tree; ``where`` names it in messages."""
    for key in tree:
        if key not in KEYS:
            raise UnknownNameError(f"{where}: a config has no key '{key}'. {nearest(str(key), KEYS)}")
    tree = {key: value for key, value in tree.items() if value is not None}
    missing = [key for key in ("name", "flow") if key not in tree]
    if missing:
        raise ConfigError(f"{where}: the key '{missing[0]}' is missing.")
    if ("data" in tree) == ("target" in tree):
        raise ConfigError(f"{where}: expected one of the keys 'data' and 'target'; got {'both' if 'data' in tree else 'neither'}.")
    name, seed = tree["name"], tree.get("seed", 0)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][\w.-]*", name):
        raise ConfigError(f"{where}: name: expected letters, digits, '_', '-' and '.', for a folder; got {name!r}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ConfigError(f"{where}: seed: expected an int >= 0; got {seed!r}.")
    training = _checked(tree.get("training", {}), _fit_keywords(), "training", where)
    evaluation = _checked(tree.get("evaluation", {}), _annotations(Evaluation.__init__), "evaluation", where)
    try:
        Evaluation(**evaluation)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Config(**{**tree, "seed": seed, "training": training, "evaluation": evaluation})


def training_parameters() -> dict[str, tuple[Any, Any]]:
    """The keywords of ``fit`` that a config may give, with annotation and default."""
    parameters = inspect.signature(fit).parameters
    return {key: (annotation, parameters[key].default) for key, annotation in _fit_keywords().items()}


def _fit_keywords() -> dict[str, Any]:
    """The keywords of ``fit`` that a config may give, with their annotations."""
    hints = typing.get_type_hints(fit)
    return {key: hints[key] for key in inspect.signature(fit).parameters if key not in NOT_IN_TRAINING}


def _annotations(call: Any) -> dict[str, Any]:
    return {key: value for key, value in typing.get_type_hints(call).items() if key != "return"}


def _checked(values: Any, known: Mapping[str, Any], section: str, where: str) -> dict[str, Any]:
    """The values of a section, each as its annotation asks."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {section}: expected a mapping; got {values!r}.")
    read = {}
    coercer = Coercer(lambda value, annotation, path: value, {})
    for key, value in values.items():
        if key not in known:
            hint = "It is the config's own key." if key == "seed" else "It comes from the data set." if key == "validation" else nearest(str(key), known)
            raise UnknownNameError(f"{where}: {section}.{key}: no such key. {hint}")
        read[key] = coercer.coerce(value, known[key], f"{where}: {section}.{key}")
    return read
