"""``fit``: train a flow, or any module its objective accepts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from flowkit.core.errors import ConfigError, DataError
from flowkit.core.flow import Flow
from flowkit.core.objective import Objective
from flowkit.objectives import MaximumLikelihood
from flowkit.training.checkpoint import Checkpoints
from flowkit.training.devices import agreed, pick_device, processes
from flowkit.training.loop import Loop
from flowkit.training.loss_module import LossModule
from flowkit.training.result import FitResult, Progress
from flowkit.training.run_folder import RunFolder
from flowkit.training.saving import describe_or_none, save
from flowkit.training.seeds import derive, forked, fresh_seed
from flowkit.training.settings import Settings
from flowkit.training.source import Nothing, Rows, Source, first, make_source, mean_one, on_device


def fit(
    model: nn.Module,
    source: Any,
    objective: Objective | None = None,
    *,
    validation: Any = None,
    sample_weight: Any = None,
    max_epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    ema: float | None = None,
    clip: float | None = 1.0,
    precision: Literal["fp32", "bf16"] = "fp32",
    gradient_accumulation: int = 1,
    compile: bool = False,
    patience: int | None = None,
    monitor: str | None = None,
    non_finite: Literal["stop", "skip"] = "stop",
    standardize: bool = True,
    device: str | torch.device = "auto",
    seed: int | None = None,
    callbacks: Sequence[Callable[[Progress], Any]] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a model in place and restore its best weights.

    Args:
        model: a flow, or any module the objective accepts.
        source: tensor, array or DataFrame (N, *event); ``(x, context)``; a Dataset or DataLoader; None when the objective
            draws its own samples.
        objective: default ``MaximumLikelihood()``.
        validation: like ``source``, or the share of its rows to hold out, in (0, 1). Best weights are those of the lowest
            validation loss; without validation the last ones.
        sample_weight: (N,) non-negative, for a source in memory; only their ratios matter.
        max_epochs, max_steps: whichever comes first; both None: 100 epochs, or 5,000 steps without data.
        batch_size: rows per step (per process and micro-batch); the last partial batch of an epoch is left out.
        lr, weight_decay, optimizer, schedule: "adamw", "adam", "sgd", "rmsprop"; "cosine", "one_cycle", "linear", "constant".
        ema: decay of an average of the weights, which is then validated and kept.
        clip: largest gradient norm, None for no limit.
        precision: "bf16" runs networks under autocast; maps and log_dets stay in float32.
        gradient_accumulation: micro-batches per step.
        compile: train through ``flowkit.compile(model)``.
        patience: epochs without a better ``monitor`` before stopping.
        monitor: column of the history that decides what is best; default ``validation_loss``.
        non_finite: "stop" with the layer's name, or "skip" the step and count it.
        standardize: set the flow's ``Standardize`` map from the source.
        device: "auto", or a torch device; under torchrun every process takes its own.
        seed: of everything drawn; the global generators are left as they were. None draws one from torch's generator.
        callbacks: called after each epoch with a ``Progress``; True stops.
        run_dir: folder for ``config.json``, ``checkpoints/``, ``metrics.csv``, TensorBoard events and the trained ``flow/``.
        resume: continue the run in ``run_dir`` exactly where its newest checkpoint is; with none, start afresh with its seed.
        progress: show a progress bar on standard error.

    Returns:
        ``FitResult``.

    Raises:
        DataError, ShapeError: the data cannot be used. ConfigError: an option cannot. NonFiniteError: training diverged.
        CheckpointError: ``run_dir`` cannot be written, or its checkpoints are damaged.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"fit: expected a model (a flow or another torch module); got {type(model).__name__}.")
    objective = MaximumLikelihood() if objective is None else objective
    if not isinstance(objective, Objective):
        got = f"the class {objective.__name__}" if isinstance(objective, type) else type(objective).__name__
        raise ConfigError(f"fit: expected an objective; got {got}. Pass an instance, e.g. flowkit.objectives.MaximumLikelihood().")
    if resume and run_dir is None:
        raise ConfigError("fit: resume=True needs run_dir=, the folder of the run to continue.")
    recorded = RunFolder.recorded(run_dir) if resume and run_dir is not None else None
    if seed is None:
        seed = recorded["training"]["seed"] if recorded is not None else fresh_seed()
    chosen = pick_device(device)
    with processes(chosen) as (rank, world), forked(chosen):
        settings = Settings(
            max_epochs, max_steps, batch_size, lr, weight_decay, optimizer, schedule, ema, clip, precision,
            gradient_accumulation, patience, monitor, non_finite, standardize, agreed(seed, world, chosen),
        )  # fmt: skip
        seed = settings.seed
        limit = settings.max_steps if settings.max_epochs is None else None
        data = make_source(
            source, model, who="fit", batch_size=settings.batch_size, seed=seed, weight=sample_weight, rank=rank, world=world, max_steps=limit
        )
        _check_required(objective, data)
        data, held_out = _validation(validation, data, model, settings)
        model.to(chosen)
        objective.to(chosen)
        module = LossModule(model, objective, bf16=precision == "bf16")
        asked = _asked(settings, module, data, held_out)
        if run_dir is not None:
            RunFolder.check(run_dir, asked, resume=resume or bool(rank))
        found = Checkpoints(Path(run_dir) / "checkpoints").newest() if recorded is not None and run_dir is not None else None
        agreed(0, world, chosen)  # nobody writes before everybody has read
        if found is None:
            _initialize(model, data, chosen, standardize)
        loop = Loop(module.train(), data, held_out, settings, chosen, rank=rank, world=world, compile=compile, callbacks=tuple(callbacks))
        folder = None if run_dir is None or rank else RunFolder(run_dir, asked, resume=resume)
        try:
            _run(loop, folder, found, progress)
        finally:
            if folder is not None:
                folder.close()
        loop.restore_best()
        module.eval()
        if folder is not None and describe_or_none(model) is not None:
            save(model, folder.path / "flow")
    return FitResult(model, loop.history, loop.best, loop.step, loop.seconds)


def _run(loop: Loop, folder: RunFolder | None, found: Any, progress: bool) -> None:
    if found is not None:
        loop.load_state(*found)
    if folder is not None:
        folder.start_logs(loop.history, loop.step)
        if found is None:
            loop.checkpoint(folder)
    loop.run(folder, progress=progress)


def _check_required(objective: Objective, source: Source) -> None:
    if isinstance(source, Nothing) and "data" in objective.requires:
        raise DataError(
            f"fit: {type(objective).__name__} needs data; got source=None. Pass a tensor, an array or a DataLoader; "
            "an objective that draws its own samples declares requires = frozenset()."
        )


def _validation(validation: Any, source: Source, model: nn.Module, settings: Settings) -> tuple[Source, Source | None]:
    """The training source and the validation source; a share of the rows is split off the former."""
    if validation is None:
        return source, None
    if not isinstance(validation, Real):
        size = settings.batch_size
        return source, make_source(validation, model, who="fit (validation)", batch_size=size, seed=settings.seed)
    validation = float(validation)
    if isinstance(source, Nothing):
        raise ConfigError("fit: source=None has no rows to hold out for validation. Drop validation=.")
    if not isinstance(source, Rows) or not 0 < validation < 1:
        raise ConfigError(f"fit: expected validation to be data, or a share in (0, 1) of a source in memory; got {validation!r}.")
    assert source.rows is not None
    order = torch.randperm(source.rows, generator=torch.Generator().manual_seed(derive(settings.seed, "holdout")))
    held = max(1, round(validation * source.rows))
    if held >= source.rows:
        raise DataError(f"fit: {source.rows} rows leave none to train on with validation={validation}.")
    parts = [source.take(index) for index in (order[held:], order[:held])]
    weights = [part.extra.get("weight") for part in parts]
    if any(weight is not None and not bool(weight.any()) for weight in weights):
        raise DataError(f"fit: with validation={validation}, the rows held out or those left all have sample_weight 0. Hold out another share.")
    made = [
        Rows(p.x, p.context, None if w is None else mean_one(w), batch_size=source.batch_size, seed=source.seed, rank=source.rank, world=source.world)  # type: ignore[arg-type]
        for p, w in zip(parts, weights, strict=True)
    ]
    return made[0], made[1]


def _asked(settings: Settings, module: LossModule, source: Source, validation: Source | None) -> dict[str, Any]:
    """What the course of the run depends on, as it is recorded in the run's folder."""
    return {
        "training": settings.as_dict(),
        "model": describe_or_none(module.model),
        "objective": describe_or_none(module.objective),
        "data": source.fingerprint(),
        "validation": None if validation is None else validation.fingerprint(),
    }


@torch.no_grad()
def _initialize(model: nn.Module, source: Source, device: torch.device, standardize: bool) -> None:
    """Set data-dependent state: standardisation on the whole source, ActNorm on the first batch."""
    if not isinstance(model, Flow):
        return
    if standardize and not isinstance(source, Nothing):
        model.set_standardizer(batch.x.to(device) for batch in source.chunks() if batch.x is not None)
    batch = first(source.batches(0))
    if batch is not None and batch.x is not None:
        model.initialize(batch.x.to(device), on_device(batch, device).context)
