"""A run's folder: what was asked for, its checkpoints and its logs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from flowkit.core.errors import CheckpointError, ConfigError
from flowkit.training.checkpoint import Checkpoints
from flowkit.training.files import make_folder, write_bytes

CONFIG, METRICS = "config.json", "metrics.csv"


class RunFolder:
    """``config.json``, ``checkpoints/``, ``metrics.csv`` and TensorBoard events of one run.

    Args:
        path: the folder; settings: what the run was asked for; resume: continue the run that is there.

    Raises:
        ConfigError: another run is there, or the settings differ from it.
        CheckpointError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], *, resume: bool) -> None:
        self.path = Path(path)
        known = self.check(self.path, settings, resume=resume)
        make_folder(self.path, "fit")
        self.checkpoints = Checkpoints(self.path / "checkpoints")
        if known is None:
            write_bytes(self.path / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())
        self._writer: Any = None

    @classmethod
    def check(cls, path: str | Path, settings: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
        """The settings of the run in a folder, or None; raises as the constructor does, and writes nothing."""
        known = cls.recorded(path)
        if known is not None and not resume:
            raise ConfigError(f"fit: {path} already holds a run. Pass resume=True to continue it, or choose another run_dir.")
        if known is not None:
            _compare(known, json.loads(json.dumps(settings)), Path(path))
        return known

    @staticmethod
    def recorded(path: str | Path) -> dict[str, Any] | None:
        """The settings of the run in a folder, or None."""
        file = Path(path) / CONFIG
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"fit: {file} cannot be read ({error}). Remove the folder to start afresh.") from None

    def start_logs(self, history: dict[str, list[float]], step: int) -> None:
        """Cut the logs back to where the run continues."""
        from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]

        self._write_metrics(history)
        self._writer = SummaryWriter(str(self.path / "events"), purge_step=step + 1 if step else None)

    def log(self, history: dict[str, list[float]]) -> None:
        """Add the newest row of the history to the logs."""
        self._write_metrics(history)
        step = int(history["step"][-1])
        for name, column in history.items():
            if name not in ("step", "epoch"):
                self._writer.add_scalar(name, column[-1], step)

    def _write_metrics(self, history: dict[str, list[float]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(history)
        writer.writerows(zip(*history.values(), strict=True))
        write_bytes(self.path / METRICS, text.getvalue().encode())

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()


def _compare(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    before, after = _flat(old), _flat(new)
    changed = [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in sorted(set(before) | set(after)) if before.get(key) != after.get(key)]
    if changed:
        raise ConfigError(f"fit: the run in {path} was made with other settings: {'; '.join(changed)}. Use the same, or another run_dir.")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()}
    if isinstance(tree, list) and any(isinstance(item, dict | list) for item in tree):
        return {k: v for i, value in enumerate(tree) for k, v in _flat(value, f"{prefix}[{i}]").items()}
    return {prefix: tree}
