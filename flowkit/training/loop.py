"""The loop: steps, epochs, validation, best weights, checkpoints."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, DataError, UnknownNameError, nearest
from flowkit.core.objective import Batch
from flowkit.training.checkpoint import pack_optimizer, unpack_optimizer
from flowkit.training.devices import average, wrap
from flowkit.training.ema import EMA
from flowkit.training.interrupts import deferred
from flowkit.training.loss_module import LossModule
from flowkit.training.non_finite import MOST_SKIPPED_IN_A_ROW, explain
from flowkit.training.optimizers import make_optimizer, schedule_factor, set_rate
from flowkit.training.progress_bar import ProgressBar
from flowkit.training.result import Progress
from flowkit.training.run_folder import RunFolder
from flowkit.training.saving import fill, unshared
from flowkit.training.seeds import derive, generator, reseed
from flowkit.training.settings import Settings
from flowkit.training.source import Nothing, Source, on_device


class Loop:
    """One run. Everything that decides its course is in ``state()``, so a run continues bit for bit on a CPU.

    Args:
        module: model and objective; source, validation: batches; settings: checked keywords; device: where to run.
        rank, world: this process among all; compile: train through ``flowkit.compile(model)``; callbacks: see ``fit``.
    """

    def __init__(
        self,
        module: LossModule,
        source: Source,
        validation: Source | None,
        settings: Settings,
        device: torch.device,
        *,
        rank: int = 0,
        world: int = 1,
        compile: bool = False,
        callbacks: tuple[Callable[[Progress], Any], ...] = (),
    ) -> None:
        self.module, self.source, self.validation, self.settings = module, source, validation, settings
        self.device, self.rank, self.world, self.callbacks = device, rank, world, callbacks
        self.phases = module.objective.phases(module.model)
        self.parameters = list(module.parameters())
        self.optimizers = {p.name: make_optimizer(settings.optimizer, p, settings.lr, settings.weight_decay) for p in self.phases}
        self.wrapped = wrap(module.compiled() if compile else module, device, world)
        self.ema = EMA(module.model, settings.ema) if settings.ema is not None else None
        self.steps_per_epoch = max(1, source.steps_per_epoch // settings.gradient_accumulation)
        self.total = settings.total_steps(self.steps_per_epoch, draws_own=isinstance(source, Nothing))
        self.monitor = settings.monitor or ("validation_loss" if validation is not None else "loss" if settings.patience else None)
        self.step, self.skipped, self.seconds, self.stopped = 0, 0, 0.0, False
        self.skipped_in_a_row: dict[str, int] = {}
        self.history: dict[str, list[float]] = {}
        self.sums: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, Tensor] = {}

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, folder: RunFolder | None, *, progress: bool) -> None:
        """Train to the end, or to where a callback or the patience stops it."""
        bar = ProgressBar(self.total, self.step, show=progress and self.rank == 0)
        started, before = time.monotonic(), self.seconds
        try:
            with deferred() as pressed:
                while self.step < self.total and not self.stopped:
                    epoch, position = divmod(self.step, self.steps_per_epoch)
                    for group in self._groups(epoch, position):
                        self._step(group)
                        self.seconds = before + time.monotonic() - started
                        bar.step(self.step)
                        if self.step >= self.total or self.step % self.steps_per_epoch == 0:
                            break
                        if pressed():
                            raise KeyboardInterrupt
                        if folder is not None and folder.checkpoints.due():
                            self.checkpoint(folder)
                    self._end_epoch(epoch, folder, bar)
                    if pressed():  # only now: a checkpoint at the end of an epoch says that the epoch is over
                        raise KeyboardInterrupt
                    if folder is not None and (folder.checkpoints.due() or self.stopped or self.step >= self.total):
                        self.checkpoint(folder)
        except KeyboardInterrupt:
            if folder is not None:
                self.checkpoint(folder)
            raise
        finally:
            bar.close()

    def _groups(self, epoch: int, position: int) -> Iterator[list[Batch]]:
        """The micro-batches of each remaining step of an epoch."""
        size = min(self.settings.gradient_accumulation, self.source.steps_per_epoch)
        batches = self.source.batches(epoch, position * size)
        for _ in range(self.steps_per_epoch - position):
            group = list(itertools.islice(batches, size))
            if not group:
                raise DataError(f"fit: the loader promised {self.source.steps_per_epoch} batches an epoch and yielded fewer. Correct its length.")
            yield group

    def _step(self, group: list[Batch]) -> None:
        factor = schedule_factor(self.settings.schedule, self.step, self.total)
        row: dict[str, float] = {}
        for number, phase in enumerate(self.phases):
            if self.step % phase.every:
                continue
            optimizer = self.optimizers[phase.name]
            set_rate(optimizer, phase, self.settings.lr * factor)
            for parameter in self.parameters:
                parameter.grad = None
            values = self._accumulate(group, phase.name, number)
            norm = float(torch.nn.utils.clip_grad_norm_(phase.parameters, self.settings.clip or math.inf))
            if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
                self._not_finite(group, phase.name, "the loss" if not math.isfinite(values["loss"]) else "the gradient")
                continue
            optimizer.step()
            self.skipped_in_a_row[phase.name] = 0
            row |= values if len(self.phases) == 1 or number == 0 else {f"{phase.name}_{key}": value for key, value in values.items()}
            row["grad_norm"] = norm
        self.step += 1
        self.module.objective.on_step_end(self.module.model, self.step)
        if self.ema is not None:
            self.ema.update(self.step)
        for key, value in row.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.sums[f"{key}#"] = self.sums.get(f"{key}#", 0.0) + 1.0

    def _accumulate(self, group: list[Batch], phase: str, number: int) -> dict[str, float]:
        """Backward over the micro-batches of a step, weighted by their sizes; returns loss and terms."""
        sizes = [float(batch.size or 1) for batch in group]
        values: dict[str, float] = {}
        for micro, (batch, size) in enumerate(zip(group, sizes, strict=True)):
            share = size / sum(sizes)
            last = micro == len(group) - 1
            with nullcontext() if last or self.world < 2 else self.wrapped.no_sync():
                loss, terms = self._loss(batch, phase, derive(self.settings.seed, f"step/{number}", self.rank, self.step, micro), self.wrapped)
                (loss * share).backward()
            for key, value in {"loss": loss, **terms}.items():
                values[key] = values.get(key, 0.0) + share * float(value.detach())
        return values

    def _loss(self, batch: Batch, phase: str, seed: int, module: Any) -> tuple[Tensor, dict[str, Tensor]]:
        reseed(self.device, seed)  # inside the fork: dropout draws from the default generator
        moved = on_device(batch, self.device)
        return module(moved.x, moved.context, moved.size, moved.index, dict(moved.extra), generator(self.device, seed), phase)

    def _not_finite(self, group: list[Batch], phase: str, what: str) -> None:
        self.skipped += 1
        self.skipped_in_a_row[phase] = self.skipped_in_a_row.get(phase, 0) + 1
        if self.settings.non_finite == "skip" and self.skipped_in_a_row[phase] < MOST_SKIPPED_IN_A_ROW:
            return
        draws = generator(self.device, derive(self.settings.seed, "step/0", self.rank, self.step, 0))
        raise explain(self.module.model, self.module.objective, on_device(group[-1], self.device), draws, phase, self.step, what)

    # -- the end of an epoch ------------------------------------------------------------------------------------

    def _end_epoch(self, epoch: int, folder: RunFolder | None, bar: ProgressBar) -> None:
        names = [key for key in self.sums if not key.endswith("#")]
        means = average([self.sums[key] / self.sums[f"{key}#"] for key in names], self.world, self.device)
        self.sums = {}
        lr = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        row = {"step": float(self.step), "epoch": float(epoch + 1), **dict(zip(names, means, strict=True))}
        with self.ema.applied() if self.ema is not None else nullcontext():
            row |= self.validate()
            row |= {"lr": lr, "skipped": float(self.skipped), "seconds": self.seconds}
            rows = len(self.history.get("step", []))
            for name in {**self.history, **row}:
                self.history.setdefault(name, [math.nan] * rows).append(row.get(name, math.nan))
            self._keep_best(row)
            state = Progress(self.module.model, self.step, self.total, epoch + 1, row)
            self.stopped = any([bool(callback(state)) for callback in self.callbacks]) or self._out_of_patience()  # noqa: C419, all are called
        bar.row(row)
        if folder is not None:
            folder.log(self.history)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and terms on the validation rows, weighted by chunk size, with the same draws every time."""
        if self.validation is None:
            return {}
        self.module.eval()
        totals: dict[str, float] = {}
        rows = 0.0
        for number, batch in enumerate(self.validation.chunks()):
            loss, terms = self._loss(batch, self.phases[0].name, derive(self.settings.seed, "validation", number), self.module)
            rows += float(batch.size or 1)
            for key, value in {"loss": loss, **terms}.items():
                totals[key] = totals.get(key, 0.0) + float(batch.size or 1) * float(value)
        self.module.train()
        return {f"validation_{key}": value / rows for key, value in totals.items()}

    def _keep_best(self, row: dict[str, float]) -> None:
        if self.monitor is None:
            return
        all_skipped = "grad_norm" not in row and not self.monitor.startswith("validation_")
        if self.monitor not in row and not all_skipped:
            raise UnknownNameError(f"fit: monitor={self.monitor!r} is not a column of the history. {nearest(self.monitor, row)}")
        value = row.get(self.monitor, math.nan)
        if math.isfinite(value) and (self.best is None or value < self.best["value"]):
            self.best = {"step": self.step, "epoch": int(row["epoch"]), "value": value, "monitor": self.monitor}
            self.best_weights = {key: tensor.detach().clone() for key, tensor in unshared(self.module.model).items()}

    def _out_of_patience(self) -> bool:
        if self.settings.patience is None:
            return False
        since = self.best["epoch"] if self.best is not None else 0
        return self.history["epoch"][-1] - since >= self.settings.patience

    def restore_best(self) -> None:
        """Put the best weights into the model; without a monitor, the averaged ones if there are any."""
        if self.best_weights:
            fill(self.module.model, self.best_weights, "fit")
        elif self.ema is not None:
            with torch.no_grad():
                for name, parameter in self.module.model.named_parameters():
                    parameter.copy_(self.ema.average[name])

    # -- checkpoints --------------------------------------------------------------------------------------------

    def checkpoint(self, folder: RunFolder) -> None:
        """Write all of the state."""
        if self.rank == 0:
            folder.checkpoints.write(self.step, *self.state())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and plain numbers."""
        tensors = {f"module/{key}": value for key, value in unshared(self.module).items()}
        tensors |= {f"best/{key}": value for key, value in self.best_weights.items()}
        tensors |= {f"ema/{key}": value for key, value in (self.ema.average if self.ema is not None else {}).items()}
        plain: dict[str, Any] = {key: getattr(self, key) for key in _PLAIN}
        plain["optimizers"] = {}
        for name, optimizer in self.optimizers.items():
            packed, plain["optimizers"][name] = pack_optimizer(optimizer, f"optimizer/{name}")
            tensors |= packed
        return tensors, plain

    def load_state(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue from what ``state`` gave."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value.to(self.device) for key, value in tensors.items() if key.startswith(prefix)}

        fill(self.module, under("module/"), "fit")
        self.best_weights = under("best/")
        if self.ema is not None:
            self.ema.average = under("ema/")
        if set(plain["optimizers"]) != set(self.optimizers):
            raise ConfigError(f"fit: the checkpoint has phases {sorted(plain['optimizers'])}; this objective {sorted(self.optimizers)}.")
        for name, optimizer in self.optimizers.items():
            unpack_optimizer(optimizer, f"optimizer/{name}", tensors, plain["optimizers"][name])
        for key in _PLAIN:
            setattr(self, key, plain[key])


_PLAIN = ("step", "skipped", "skipped_in_a_row", "seconds", "stopped", "history", "sums", "best")
