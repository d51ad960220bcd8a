"""What is kept of a run beside what ``fit`` writes, and how it is found again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import CheckpointError
from flowkit.data import Dataset
from flowkit.experiment.config import Config, check_config
from flowkit.experiment.yaml_file import read_yaml
from flowkit.training import load
from flowkit.training.devices import pick_device
from flowkit.training.files import write_bytes
from flowkit.training.saving import is_saved_flow

CONFIG, UNITS, METRICS, SAMPLES, REPORT, PICTURES = "config.yaml", "units.json", "metrics.json", "samples.npz", "report.html", "pictures"


@dataclass(frozen=True)
class Units:
    """How what a flow models relates to the data as they were given.

    Args:
        event_shape: of one event of the data; the flow may see it flattened.
        names: of the columns of a table, or None.
        loc, scale: raw = x * scale + loc for a standardised table, else None.
        log_det: log|det dx/draw| per row; log-density of a raw row = log-density of x + this.
        levels: of discrete data dequantised to [0, 1), or None.
        vocabulary: number of tokens 0, 1, ... that data hold as they are, or None.
        molecule: names, elements, residues and bonds of the atoms, for structures of one, or None.
    """

    event_shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    loc: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    log_det: float = 0.0
    levels: int | None = None
    vocabulary: int | None = None
    molecule: dict[str, Any] | None = None

    @classmethod
    def of(cls, data: Dataset) -> Units:
        """The units of a data set."""
        scale = data.scale
        loc, spread = (None, None) if scale is None else (tuple(scale.loc.tolist()), tuple(scale.scale.tolist()))
        own = {name: getattr(data, name, None) for name in ("levels", "vocabulary", "molecule")}
        return cls(data.event_shape, data.names, loc, spread, data.log_det_per_row, **own)

    @property
    def columns(self) -> tuple[str, ...]:
        """A name for every number of an event."""
        return self.names or tuple(f"x{i}" for i in range(math.prod(self.event_shape)))

    def restore(self, x: Tensor) -> Tensor:
        """Events of the flow as the data were given: (N, *flow's event) -> (N, *event_shape)."""
        if self.loc is not None and self.scale is not None:
            x = x.cpu()
            x = (x.double() * torch.tensor(self.scale, dtype=torch.float64) + torch.tensor(self.loc, dtype=torch.float64)).to(x.dtype)
        return x.reshape(-1, *self.event_shape)

    def standardize(self, raw: Tensor) -> Tensor:
        """Rows as they were given as the flow's units: (N, D) -> (N, D)."""
        if self.loc is None or self.scale is None:
            return raw
        return (raw - torch.tensor(self.loc, dtype=raw.dtype)) / torch.tensor(self.scale, dtype=raw.dtype)

    @property
    def raw_log_det(self) -> float:
        """What is added to a log-density when ``restore`` changes the units."""
        return 0.0 if self.scale is None else self.log_det

    def as_pictures(self, x: Tensor) -> Tensor:
        """Images as they were given, in values from 0 (black) to 1: tokens are divided by the last one."""
        return x if self.vocabulary is None else x / max(self.vocabulary - 1, 1)

    @property
    def is_image(self) -> bool:
        """Whether events are pictures with 1 or 3 channels."""
        return len(self.event_shape) == 3 and self.event_shape[0] in (1, 3)


@dataclass(frozen=True)
class Run:
    """A trained flow found on disk: a run's folder, or a saved flow alone (then without ``config``)."""

    folder: Path
    flow: Any
    units: Units
    config: Config | None


def read_run(path: str | Path, *, device: str = "cpu") -> Run:
    """Load the flow of a run, or a flow written by ``flowkit.save``, onto a device.

    Raises:
        CheckpointError: there is none, or it is not whole.
    """
    folder = Path(path)
    config = read_run_config(folder) if (folder / CONFIG).is_file() else None
    if config is not None and not is_saved_flow(folder / "flow"):
        raise CheckpointError(f"{folder}: the run has no trained flow yet. Continue it with: flowkit fit --resume {folder}")
    flow = load(folder, device=pick_device(device))
    units = _read_units(folder) if (folder / UNITS).is_file() else Units(tuple(flow.event_shape))
    return Run(folder, flow, units, config)


def read_run_config(folder: Path) -> Config:
    """The config a run was made with.

    Raises:
        CheckpointError: the folder is not a run's.
    """
    if not (folder / CONFIG).is_file():
        what = "does not exist" if not folder.exists() else f"holds no {CONFIG}"
        raise CheckpointError(f"{folder}: expected the folder of a run, as 'flowkit fit' makes; it {what}.")
    return check_config(read_yaml(folder / CONFIG), str(folder / CONFIG))


def write_json(path: Path, tree: Any) -> None:
    """Write a tree as JSON, at once; what is not finite becomes null."""
    write_bytes(path, (json.dumps(finite(tree), indent=2, allow_nan=False) + "\n").encode())


def finite(tree: Any) -> Any:
    """A tree that JSON can hold."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return float(tree) if isinstance(tree, float) and math.isfinite(tree) else None if isinstance(tree, float) else tree


def read_json(path: Path) -> Any:
    """A tree written by ``write_json``, or None where there is no whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _read_units(folder: Path) -> Units:
    tree: Any = read_json(folder / UNITS)
    try:
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()}
        return Units(**values)
    except (TypeError, AttributeError):
        raise CheckpointError(f"{folder / UNITS}: not written by flowkit, or damaged. Fit again.") from None
