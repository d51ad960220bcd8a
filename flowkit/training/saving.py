"""Saved flows: a folder with ``model.safetensors`` and ``config.json``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build, describe
from flowkit.core.distribution import Distribution
from flowkit.core.errors import CheckpointError, ConfigError, FlowkitError
from flowkit.training.files import replaced_folder, sha256, write_bytes
from flowkit.training.seeds import forked

FORMAT = 1
WEIGHTS, CONFIG, ARGUMENTS = "model.safetensors", "config.json", "arguments/"


def save(flow: nn.Module, path: str | Path) -> Path:
    """Write a flow to a folder: its description and its weights, nothing that can run code.

    The folder appears whole or not at all; an older flow at the same path is kept until the new one is there.

    Args:
        flow: a flow whose parts are all registered classes.
        path: the folder.

    Returns:
        the folder.

    Raises:
        ConfigError: a part is not registered, or could not be built again; the message has the path of the argument.
        CheckpointError: the folder cannot be written.
    """
    from safetensors.torch import save as to_bytes

    target = Path(path)
    if target.exists() and not (target.is_dir() and (is_saved_flow(target) or not any(target.iterdir()))):
        raise CheckpointError(f"save: {target} exists and is not a saved flow, so it is not overwritten. Choose another path.")
    arguments: dict[str, Tensor] = {}
    description = describe(flow, arguments)
    _check_loadable(flow, description, arguments)
    tensors = unshared(flow) | {f"{ARGUMENTS}{key}": value for key, value in arguments.items()}
    content = to_bytes({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    config = {"format": FORMAT, "library": "flowkit", "sha256": sha256(content), "flow": description}
    with replaced_folder(target, "save", keep_previous=False) as folder:
        write_bytes(folder / WEIGHTS, content)
        write_bytes(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return target


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """Read a flow written by ``save``. Never unpickles, never imports what a file names.

    A class of your own must be registered and imported before.

    Args:
        path: the folder; a run folder of ``fit`` works too.
        device: where the flow is put.

    Raises:
        CheckpointError: the folder is missing, damaged or not a saved flow.
        UnknownNameError, ConfigError: it names what is not registered here.
    """
    from safetensors.torch import load as from_bytes

    folder = _locate(Path(path))
    config = _read_config(folder)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"load: cannot read {folder / WEIGHTS} ({error.strerror}). The folder is not whole; save again.") from None
    if sha256(content) != config.get("sha256"):
        raise CheckpointError(f"load: {folder / WEIGHTS} does not match its checksum: it is damaged or was exchanged. Save again or restore a copy.")
    try:
        tensors = from_bytes(content)
    except Exception as error:  # safetensors raises its own error type and several of Python's
        raise CheckpointError(f"load: {folder / WEIGHTS} is not a safetensors file ({error}).") from None
    arguments = {key.removeprefix(ARGUMENTS): value for key, value in tensors.items() if key.startswith(ARGUMENTS)}
    state = {key: value for key, value in tensors.items() if not key.startswith(ARGUMENTS)}
    flow: Any = build(config["flow"], Distribution, weights=arguments, path="flow")
    fill(flow, state, str(folder))
    return flow.to(device).eval()


def _check_loadable(flow: nn.Module, description: dict[str, Any], arguments: dict[str, Tensor]) -> None:
    try:
        with forked(torch.device("cpu")):
            made: Any = build(description, Distribution, weights=arguments, path="flow")
        fill(made, unshared(flow), "flow")
    except Exception as error:  # whatever a constructor raises, load would meet it too
        raise ConfigError(f"save: the flow could not be loaded again: {error}") from error


def is_saved_flow(folder: Path) -> bool:
    """Whether a folder looks like one written by ``save``."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def unshared(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module with every shared tensor once, under its first name."""
    state = module.state_dict()
    return {names[0]: state[names[0]] for names in _shared_names(state)}


def _shared_names(state: dict[str, Tensor]) -> list[list[str]]:
    """The names of a state, those of one tensor together."""
    names: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for key, value in state.items():
        identity = (value.data_ptr() if value.numel() else id(value), tuple(value.shape), tuple(value.stride()))
        names.setdefault(identity, []).append(key)
    return list(names.values())


def fill(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy a state written from ``unshared`` into a module of the same structure, dtype included.

    Raises:
        CheckpointError: names or shapes differ; nothing is changed then.
    """
    own = unshared(module)
    missing, foreign = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or foreign:
        first = f"'{missing[0]}' is missing" if missing else f"'{foreign[0]}' is not part of the model"
        raise CheckpointError(f"{where}: the weights do not belong to this model: {first} ({len(missing)} missing, {len(foreign)} foreign).")
    for key, value in state.items():
        if own[key].shape != value.shape:
            raise CheckpointError(f"{where}: weight '{key}' has shape {tuple(value.shape)}; the model expects {tuple(own[key].shape)}.")
    names = _shared_names(module.state_dict())
    floating = Counter(value.dtype for value in state.values() if value.is_floating_point())
    if any(own[key].dtype != value.dtype for key, value in state.items()) and floating:
        module.to(dtype=floating.most_common(1)[0][0])  # buffers that are not saved go with the majority
    tensors = module.state_dict(keep_vars=True)
    with torch.no_grad():
        for first, *others in names:
            for key in (first, *others):
                if tensors[key].dtype == state[first].dtype:
                    tensors[key].copy_(state[first])
                else:
                    tensors[key].data = state[first].to(tensors[key].device, copy=True)


def _locate(path: Path) -> Path:
    """The folder itself, the flow inside a run folder, or the copy kept while a new one was being written."""
    previous = path.with_name(f"{path.name}.previous")
    for folder in (path, path / "flow", previous):
        if is_saved_flow(folder):
            return folder
    what = "is not a saved flow" if path.exists() else "does not exist"
    raise CheckpointError(f"load: {path} {what}; expected a folder with {WEIGHTS} and {CONFIG}, as flowkit.save writes.")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"load: cannot read {folder / CONFIG} ({error}).") from None
    if not isinstance(config, dict) or config.get("library") != "flowkit" or "flow" not in config:
        raise CheckpointError(f"load: {folder / CONFIG} was not written by flowkit.save.")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"load: {folder} has format {config.get('format')!r}; this version reads {FORMAT}. Update flowkit.")
    return config


def describe_or_none(module: nn.Module) -> dict[str, Any] | None:
    """The description of a module, or None when it holds parts that are not registered."""
    try:
        description = describe(module, {})
        json.dumps(description)
    except (ConfigError, FlowkitError, TypeError):
        return None
    return description
