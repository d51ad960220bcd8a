"""A run: one straight line from a config to a report."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from flowkit.core.errors import ConfigError, FlowkitError
from flowkit.core.version import __version__
from flowkit.experiment.config import Config, Evaluation
from flowkit.experiment.evaluate import beside, measure, measure_target
from flowkit.experiment.pieces import Pieces, make_pieces
from flowkit.experiment.record import CONFIG, METRICS, REPORT, SAMPLES, UNITS, Run, Units, read_run_config, write_json
from flowkit.experiment.report import write_report
from flowkit.experiment.samples import write_samples
from flowkit.training import FitResult, fit
from flowkit.training.devices import pick_device, processes
from flowkit.training.files import make_folder, write_bytes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run left: its folder and its metrics."""

    folder: Path
    metrics: dict[str, Any]


def start(config: Config, *, where: str = "config", root: str | Path = "runs") -> Outcome | None:
    """Train, evaluate, draw samples and write the report, in a new folder ``root/<name>-<time>`` unless the config names one.

    Under torchrun every process trains and the first does the rest; the others get None. An interrupt leaves a checkpoint
    and is raised again with the folder as its text.

    Args:
        config: read by ``read_config``.
        where: its file, for messages.
        root: where runs are kept.
    """
    return _run(config, where, None, Path(root))


def resume(folder: str | Path, config: Config | None = None, *, where: str = "config") -> Outcome | None:
    """Continue a run exactly where its newest checkpoint is.

    Args:
        folder: of the run.
        config: must be what the run was made with; default that one.

    Raises:
        CheckpointError: there is no run.
        ConfigError: ``config`` differs from the run's.
    """
    recorded = read_run_config(Path(folder))
    if config is not None:
        _check_same(recorded, make_pieces(config, where).config, where, Path(folder))
    return _run(recorded, str(Path(folder) / CONFIG), Path(folder), Path(folder).parent)


def _run(config: Config, where: str, old: Path | None, root: Path) -> Outcome | None:
    options = {key: value for key, value in config.training.items() if key != "run_dir"}
    device = pick_device(options.get("device", "auto"))
    pieces = make_pieces(config, where)
    source, validation = _source(pieces)
    with processes(device) as (rank, world):
        folder = old if old is not None else _agree(_new_folder(config, root) if rank == 0 else None, device, world)
        if rank == 0 and old is None:
            write_bytes(folder / CONFIG, _without_folder(pieces.config).as_yaml().encode())
            write_json(folder / UNITS, dataclasses.asdict(_units(pieces)))
        try:
            result = fit(pieces.flow, source, pieces.objective, validation=validation, seed=config.seed, run_dir=folder, resume=old is not None, **options)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(str(folder)) from None
        except FlowkitError:
            if rank == 0 and old is None:
                _undo(folder, root)
            raise
        return _finish(pieces, folder, result) if rank == 0 else None


def _source(pieces: Pieces) -> tuple[Any, Any]:
    """What ``fit`` trains on and stops by."""
    if pieces.data is None:
        return None, None
    train, validation = pieces.rows("train"), pieces.rows("validation")
    return _pair(train), _pair(validation) if len(validation.x) else None


def _pair(split: Any) -> Any:
    return split.x if split.context is None else (split.x, split.context)


def _units(pieces: Pieces) -> Units:
    if pieces.data is not None:
        return Units.of(pieces.data)
    return Units(tuple(pieces.target.event_shape), molecule=getattr(pieces.target, "atoms", None))


def _finish(pieces: Pieces, folder: Path, result: FitResult) -> Outcome:
    """Metrics, samples, report."""
    config, flow = pieces.config, pieces.flow
    options, units = Evaluation(**config.evaluation), _units(pieces)
    metrics: dict[str, Any] = {"name": config.name}
    contexts = None
    if pieces.data is not None:
        split, rows = pieces.held_out
        metrics |= {"split": split, **measure(flow, rows, units, options, train=pieces.rows("train"), seed=config.seed)}
        contexts = beside(flow, rows).context
    else:
        metrics |= measure_target(flow, pieces.target, options, seed=config.seed)
    metrics |= {
        "parameters": sum(p.numel() for p in flow.parameters()),
        "steps": result.steps,
        "best_step": None if result.best is None else result.best["step"],
        "seconds": result.seconds,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": str(next((p.device for p in flow.parameters()), "cpu")),
        "flowkit": __version__,
        "torch": torch.__version__,
    }
    write_json(folder / METRICS, metrics)
    write_samples(Run(folder, flow, units, config), folder / SAMPLES, options.samples, seed=config.seed, contexts=contexts)
    write_report(folder, folder / REPORT)
    return Outcome(folder, metrics)


def _new_folder(config: Config, root: Path) -> Path:
    """``run_dir`` of the config, or a new folder with the time in its name."""
    given = config.training.get("run_dir")
    if given is not None:
        folder = Path(given)
        if (folder / CONFIG).exists():
            raise ConfigError(f"{folder}: already holds a run. Continue it with: flowkit fit --resume {folder}")
        make_folder(folder, "fit")
        return folder
    make_folder(root, "fit")
    stem = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        try:
            (root / f"{stem}{suffix}").mkdir()
            return root / f"{stem}{suffix}"
        except FileExistsError:
            continue
    raise ConfigError(f"{root}: too many runs called {stem}. Give training.run_dir.")


def _undo(folder: Path, root: Path) -> None:
    """Take back the folder of a run that was refused before its first checkpoint; other files in it stay."""
    if any(folder.glob("checkpoints/step-*")):
        return
    for name in (CONFIG, UNITS):
        (folder / name).unlink(missing_ok=True)
    for left in (folder, root):
        with contextlib.suppress(OSError):  # not empty: somebody else's files
            left.rmdir()


def _agree(folder: Path | None, device: torch.device, world: int) -> Path:
    """The first process's folder, in every process."""
    if world > 1:
        shared = [folder]
        torch.distributed.broadcast_object_list(shared, src=0, device=device)
        folder = shared[0]
    assert folder is not None
    return folder


def _without_folder(config: Config) -> Config:
    """A config without where it is run, so that it can be run again elsewhere."""
    return dataclasses.replace(config, training={key: value for key, value in config.training.items() if key != "run_dir"})


def _check_same(recorded: Config, asked: Config, where: str, folder: Path) -> None:
    before, after = recorded.as_dict(), _without_folder(asked).as_dict()
    changed = [key for key in sorted(set(before) | set(after)) if before.get(key) != after.get(key)]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{where}: '{key}' differs from the run in {folder}: {before.get(key)!r} there, {after.get(key)!r} here. Leave the config out to continue the run."
        )
