"""From a config to a data set or target, a flow and an objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.build.describe import constructor_parameters
from flowkit.core.errors import ConfigError, FlowkitError
from flowkit.core.objective import Objective
from flowkit.core.registry import DATA, DISTRIBUTIONS, FLOWS, OBJECTIVES, TARGETS
from flowkit.core.shapes import show, unify
from flowkit.data import Dataset, Split
from flowkit.experiment.config import Config


@dataclass(frozen=True)
class Pieces:
    """What a run is made of.

    Args:
        config: with what the data decide filled in.
        flow, objective: built under the config's seed.
        data, target: one of both, the other is None.
    """

    config: Config
    flow: nn.Module
    objective: Objective
    data: Dataset | None
    target: Any

    def rows(self, split: str) -> Split:
        """A split of the data as the flow sees it: (N, *event_shape of the flow)."""
        assert self.data is not None
        return as_events(getattr(self.data, split), self.flow)

    @property
    def held_out(self) -> tuple[str, Split]:
        """The test split, or the next best that has rows."""
        for name in ("test", "validation"):
            if len(self.rows(name).x) > 1:
                return name, self.rows(name)
        return "train", self.rows("train")


def make_pieces(config: Config, where: str = "config") -> Pieces:
    """Build what a config describes.

    Raises:
        ConfigError, UnknownNameError, DataError: with ``where`` and the path of the key.
    """
    with _naming(where, "data" if config.data is not None else "target"):
        data = None if config.data is None else build(config.data, DATA, path="data")
        target = None if config.target is None else make_target(config.target)
    with torch.random.fork_rng(), _naming(where, "objective"):
        torch.manual_seed(config.seed)
        objective_tree = _named(config.objective, "objective")
        wanted = constructor_parameters(OBJECTIVES[objective_tree["name"]]) if objective_tree.get("name") in OBJECTIVES else {}
        given = {"target": target} if target is not None and "target" in wanted and "target" not in objective_tree else {}
        objective: Objective = build({**objective_tree, **given}, OBJECTIVES, path="objective")
        if data is None and "data" in objective.requires:
            raise ConfigError(f"objective: {type(objective).__name__} needs data; the config has a target. Give data, or another objective.")
        if target is None and "target" in objective.requires and "target" not in objective_tree:
            raise ConfigError(f"objective: {type(objective).__name__} needs a target. Give the key 'target'.")
    with torch.random.fork_rng(), _naming(where, "flow"):
        torch.manual_seed(config.seed)
        tree = _fill(_named(config.flow, "flow"), data, target)
        flow: nn.Module = build(tree if target is None or "target" in tree or not _takes(tree, "target") else {**tree, "target": target}, FLOWS, path="flow")
        if target is not None:
            _check_events(flow, target)
    return Pieces(dataclasses.replace(config, flow=tree, objective=objective_tree), flow, objective, data, target)


def make_target(description: Any) -> Any:
    """The target that a config describes; any distribution is one."""
    name = _named(description, "target").get("name")
    return build(description, DISTRIBUTIONS if name not in TARGETS and name in DISTRIBUTIONS else TARGETS, path="target")


def as_events(split: Split, flow: Any) -> Split:
    """Rows in the event shape of a flow: images become vectors for a flow over vectors."""
    x, shape = split.x, tuple(getattr(flow, "event_shape", split.x.shape[1:]))
    if len(shape) == 1 and x.dim() > 2 and shape[0] in (None, math.prod(x.shape[1:])):
        x = x.flatten(1)
    return Split(x, split.context)


@contextmanager
def _naming(where: str, section: str) -> Iterator[None]:
    """Put the file in front of what is wrong; torch's own complaints about an argument become a ConfigError."""
    try:
        yield
    except FlowkitError as error:
        raise type(error)(f"{where}: {error}") from error
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise ConfigError(f"{where}: {section}: cannot be built ({' '.join(str(error).split()) or type(error).__name__}).") from error


def _named(description: Any, section: str) -> dict[str, Any]:
    """A description as a mapping; a bare name is short for ``{name: it}``."""
    if isinstance(description, str):
        return {"name": description}
    if not isinstance(description, Mapping):
        raise ConfigError(f"{section}: expected a name, or {{name: ..., **arguments}}; got {description!r}.")
    return dict(description)


def _check_events(flow: Any, target: Any) -> None:
    """Before a run has a folder: flow and target are densities of events of one shape, and the flow needs no context."""
    found, wanted = getattr(flow, "event_shape", None), tuple(target.event_shape)
    if isinstance(found, tuple) and unify(found, wanted) is None:
        raise ConfigError(f"flow: expected events of shape {show(wanted)}, the target's; {type(flow).__name__} has {show(found)}. Change one of them.")
    if getattr(flow, "context_shape", None) is not None:
        raise ConfigError("flow: expected one without a context, as a target has none to give; got a conditional one. Build it without context_features.")


def _takes(tree: Mapping[str, Any], argument: str) -> bool:
    return tree.get("name") in FLOWS and argument in constructor_parameters(FLOWS[tree["name"]])


def _fill(tree: dict[str, Any], data: Dataset | None, target: Any) -> dict[str, Any]:
    """Add to a flow's description what the data decide and the config leaves out."""
    shape = data.event_shape if data is not None else tuple(target.event_shape)
    # a field given in the config has sizes of its own
    known: dict[str, Any] = {"features": None if tree.get("field") else math.prod(shape), "image_shape": list(shape) if len(shape) == 3 else None}
    if data is not None and data.context_shape is not None and not {"classes", "context_features", "embed"} & set(tree):
        known["classes"] = data.class_count or None
        known["context_features"] = data.context_shape[0] if len(data.context_shape) == 1 and not data.class_count else None
    added = {key: value for key, value in known.items() if value is not None and key not in tree and _takes(tree, key)}
    named = {"name": tree["name"]} if "name" in tree else {}
    return {**named, **added, **tree}
