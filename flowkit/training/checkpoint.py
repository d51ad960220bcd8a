"""Checkpoints of a run: tensors in safetensors, the rest in JSON with the tensors' checksum, no pickle."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import CheckpointError
from flowkit.training.files import make_folder, replaced_folder, sha256, write_bytes

FORMAT = 1
KEPT = 2
TENSORS, STATE = "tensors.safetensors", "state.json"
_log = logging.getLogger("flowkit")


class Checkpoints:
    """The checkpoints in a folder, newest last; each appears whole or not at all, and the newest ``KEPT`` stay.

    Args:
        folder: created if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder, "fit")
        self._written, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether enough time has passed: two seconds, and twenty times what writing takes."""
        return time.monotonic() - self._written > max(2.0, 20 * self._cost)

    def write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the checkpoint of a step."""
        from safetensors.torch import save

        start = time.monotonic()
        content = save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()})
        text = json.dumps({"format": FORMAT, "step": step, "sha256": sha256(content), "state": state})
        try:
            with replaced_folder(self.folder / f"step-{step:09d}", "fit", keep_previous=False) as folder:
                write_bytes(folder / TENSORS, content)
                write_bytes(folder / STATE, text.encode())
        except OSError as error:
            raise CheckpointError(f"fit: cannot write a checkpoint to {self.folder} ({error.strerror}). The run up to the last one is safe.") from None
        for old in self._all()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._written, self._cost = time.monotonic(), time.monotonic() - start

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest whole checkpoint, or None where there is none.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        found = self._all()
        for folder in reversed(found):
            try:
                return _read(folder)
            except CheckpointError as error:
                _log.warning("%s Falling back to the one before.", error)
        if found:
            raise CheckpointError(f"fit: every checkpoint in {self.folder} is damaged. Remove the folder to start afresh.")
        return None

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir() and not path.name.endswith(".previous"))


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors.torch import load

    try:
        record = json.loads((folder / STATE).read_text(encoding="utf-8"))
        content = (folder / TENSORS).read_bytes()
        if record["format"] != FORMAT or record["sha256"] != sha256(content):
            raise CheckpointError(f"fit: checkpoint {folder} is damaged or of another format.")
        return load(content), record["state"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"fit: checkpoint {folder} cannot be read ({error}).") from None


def pack_optimizer(optimizer: torch.optim.Optimizer, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name and plain numbers."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entry in state["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}/{index}/{key}"] = value
            else:
                numbers[f"{index}/{key}"] = value
    return tensors, {"groups": state["param_groups"], "numbers": numbers}


def unpack_optimizer(optimizer: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Restore what ``pack_optimizer`` wrote."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{prefix}/"):
            index, name = key.removeprefix(f"{prefix}/").split("/", 1)
            state.setdefault(int(index), {})[name] = value
    for key, value in plain["numbers"].items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    groups = [{key: tuple(v) if isinstance(v, list) and key == "betas" else v for key, v in group.items()} for group in plain["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
