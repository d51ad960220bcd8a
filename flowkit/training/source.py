"""From what a user passes as data to batches in a reproducible order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from flowkit.core.errors import ConfigError, DataError, ShapeError
from flowkit.core.objective import Batch
from flowkit.core.shapes import check_context, show
from flowkit.training.seeds import derive


class Source:
    """Batches by epoch; the order depends on (seed, epoch) alone, so a run can continue anywhere."""

    steps_per_epoch: int
    rows: int | None = None

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without the first ``skip``."""
        raise NotImplementedError

    def chunks(self) -> Iterator[Batch]:
        """Every row once, in order."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        return {}


class Nothing(Source):
    """No data: the objective draws its own samples, and an epoch is 100 steps, or a fiftieth of all where that is less, so that curves have points."""

    def __init__(self, batch_size: int, max_steps: int | None = None) -> None:
        self.batch_size, self.steps_per_epoch = batch_size, 100 if max_steps is None else min(100, max(1, math.ceil(max_steps / 50)))

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for _ in range(self.steps_per_epoch - skip):
            yield Batch(size=self.batch_size)

    def chunks(self) -> Iterator[Batch]:
        return iter(())


class Rows(Source):
    """Tensors in memory, reshuffled every epoch; a last partial batch is left out unless it is the only one.

    Args:
        x: (N, *event); context: (N, *context), a dict of them, or None; weight: (N,) or None.
        rank, world: this process's share of every epoch.
    """

    def __init__(self, x: Tensor, context: Any, weight: Tensor | None, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.x, self.context, self.weight = x, context, weight
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.rows = len(x)
        self.steps_per_epoch = max(1, self.rows // world // batch_size)

    def take(self, index: Tensor | slice) -> Batch:
        """A batch of given rows."""
        extra = {} if self.weight is None else {"weight": self.weight[index]}
        rows = torch.arange(self.rows or 0)[index] if isinstance(index, slice) else index
        return Batch(self.x[index], _index(self.context, index), size=len(rows), index=rows, extra=extra)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        order = torch.randperm(self.rows or 0, generator=torch.Generator().manual_seed(derive(self.seed, "order", epoch)))
        order = order[self.rank :: self.world]
        for step in range(skip, self.steps_per_epoch):
            yield self.take(order[step * self.batch_size : (step + 1) * self.batch_size])

    def chunks(self) -> Iterator[Batch]:
        size = max(self.batch_size, 8192)
        for start in range(0, self.rows or 0, size):
            yield self.take(slice(start, start + size))

    def fingerprint(self) -> dict[str, Any]:
        found: dict[str, Any] = {"rows": self.rows, "event": list(self.x.shape[1:]), "sum": _sum(self.x)}
        if self.context is not None:
            found["context"] = {key: _sum(part) for key, part in self.context.items()} if isinstance(self.context, dict) else _sum(self.context)
        if self.weight is not None:
            # of mean 1, so their plain sum says nothing
            found["weight"] = _sum(self.weight.square())
        return found


def _sum(tensor: Tensor) -> float:
    """The sum of about a thousand of its numbers."""
    return float(tensor.flatten()[:: max(1, tensor.numel() // 1000)].double().sum())


class Loader(Source):
    """A DataLoader; its shuffling is seeded per epoch from torch's default generator, which the loop forks.

    Args:
        loader: gives batches ``x`` or ``(x, context)``; model: what their rows must fit; whole: gives every row, where ``loader``
            gives this process's share.
    """

    def __init__(self, loader: DataLoader[Any], model: nn.Module, seed: int, *, who: str = "fit", whole: DataLoader[Any] | None = None) -> None:
        self.loader, self.seed, self.who, self.whole = loader, seed, who, whole or loader
        self._model = model
        try:
            self.steps_per_epoch = len(loader)
        except TypeError:
            raise DataError("fit: a DataLoader over an IterableDataset has no length. Use a Dataset, or give the dataset __len__.") from None
        if self.steps_per_epoch == 0:
            raise DataError("fit: the DataLoader is empty. Lower batch_size, or set drop_last=False.")

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        torch.manual_seed(derive(self.seed, "loader", epoch))
        if self.loader.generator is not None:
            self.loader.generator.manual_seed(derive(self.seed, "loader", epoch))
        if isinstance(self.loader.sampler, DistributedSampler):
            self.loader.sampler.set_epoch(epoch)
        for number, item in enumerate(self.loader):
            if number >= skip:
                yield self._batch(item)

    def chunks(self) -> Iterator[Batch]:
        for item in self.whole:
            yield self._batch(item)

    def fingerprint(self) -> dict[str, Any]:
        return {"batches": self.steps_per_epoch}

    def _batch(self, item: Any) -> Batch:
        parts = list(item) if isinstance(item, tuple | list) else [item]
        x, context = _checked(parts[0], parts[1] if len(parts) > 1 else None, self._model, self.who)
        return Batch(x, context, size=len(x))


def make_source(
    source: Any, model: nn.Module, *, who: str, batch_size: int, seed: int, weight: Any = None, rank: int = 0, world: int = 1, max_steps: int | None = None
) -> Source:
    """Read what a user passed: tensor, array, DataFrame, ``(x, context)``, Dataset, DataLoader, or None, of which ``max_steps`` says how long.

    Raises:
        DataError: empty, not finite, not numeric; ShapeError: rows of another shape than the model's.
    """
    if weight is not None and (source is None or isinstance(source, Dataset | DataLoader)):
        raise ConfigError(f"{who}: sample_weight needs rows in memory; got a source of type {type(source).__name__}. Pass a tensor or an array.")
    if source is None:
        return Nothing(batch_size, max_steps)
    if isinstance(source, nn.Module):
        raise DataError(f"{who}: expected data; got {type(source).__name__}. A target goes into the objective: pass source=None.")
    if isinstance(source, Dataset | DataLoader):
        return _loader(source, model, who, batch_size, seed, rank, world)
    x, context = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    rows, context = _checked(x, context, model, who)
    return Rows(rows, context, _weights(weight, len(rows), rows.dtype), batch_size=batch_size, seed=seed, rank=rank, world=world)


def _loader(source: Any, model: nn.Module, who: str, batch_size: int, seed: int, rank: int, world: int) -> Loader:
    """Among several processes every one must see its own share of a Dataset."""
    loader = source if isinstance(source, DataLoader) else None
    if loader is None and isinstance(source, IterableDataset):
        loader = DataLoader(source, batch_size=batch_size)
    if loader is not None:
        if world > 1 and not isinstance(loader.sampler, DistributedSampler):
            raise ConfigError(f"{who}: each of {world} processes would read all of this data. Pass the Dataset, or a DataLoader with a DistributedSampler.")
        return Loader(loader, model, seed, who=who)
    if world == 1:
        return Loader(DataLoader(source, batch_size=batch_size, shuffle=True), model, seed, who=who)
    sampler: DistributedSampler[Any] = DistributedSampler(source, num_replicas=world, rank=rank, seed=seed % 2**31)
    share = DataLoader(source, batch_size=batch_size, sampler=sampler)
    return Loader(share, model, seed, who=who, whole=DataLoader(source, batch_size=batch_size))


def _checked(x: Any, context: Any, model: nn.Module, who: str) -> tuple[Tensor, Any]:
    """Rows and context in the model's dtype, after every check."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    rows = as_rows(x, who).to(dtype)
    _check_rows(rows, model, who)
    return rows, _check_context_rows(context, model, len(rows), dtype, who)


def as_rows(value: Any, who: str) -> Tensor:
    """A tensor, array, DataFrame or nested list of numbers as a floating tensor (N, *event)."""
    if not isinstance(value, Tensor):
        array = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
        if array.dtype == object or not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise DataError(f"{who}: expected numbers; got {_first_text(value, array)}. Encode or drop such columns.")
        value = _tensor(array)
    if value.is_complex():
        raise DataError(f"{who}: expected real numbers; got {value.dtype}.")
    value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
    if value.dim() == 0 or len(value) == 0:
        raise DataError(f"{who}: expected at least one row; got shape {tuple(value.shape)}.")
    finite = torch.isfinite(value)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0, 0])
        raise DataError(f"{who}: {int((~finite).sum())} values are NaN or infinite, the first in row {row}. Drop or impute them.")
    return value


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's memory, or over a copy where that is read-only or strided backwards."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _first_text(value: Any, array: np.ndarray) -> str:
    dtypes = getattr(value, "dtypes", None)
    if dtypes is not None and hasattr(dtypes, "items"):
        for name, dtype in dtypes.items():
            if not np.issubdtype(getattr(dtype, "type", np.object_), np.number):
                return f"column '{name}' of type {dtype}"
    return f"type {array.dtype}"


def _check_rows(rows: Tensor, model: nn.Module, who: str) -> None:
    event = getattr(model, "event_shape", None)
    if event is not None:
        tail = tuple(rows.shape[1:])
        if len(tail) != len(event) or any(size is not None and size != got for size, got in zip(event, tail, strict=True)):
            raise ShapeError(f"{who}: expected rows of shape {show(event)}; got data of shape {tuple(rows.shape)}. Build the flow for that many features.")
    domain = getattr(model, "support", None)
    if domain is not None:
        device = next((p.device for p in model.parameters()), rows.device)
        outside = int((~domain.contains(rows.to(device))).sum())
        if outside:
            raise DataError(f"{who}: {outside} of {len(rows)} rows lie outside the flow's support {domain}. Widen support= or drop the rows.")


def _check_context_rows(context: Any, model: nn.Module, rows: int, dtype: torch.dtype, who: str) -> Any:
    declared = getattr(model, "context_shape", None)
    if context is not None:
        context = {k: _context_tensor(v, dtype) for k, v in context.items()} if isinstance(context, dict) else _context_tensor(context, dtype)
        for part in context.values() if isinstance(context, dict) else [context]:
            if len(part) != rows:
                raise ShapeError(f"{who}: {rows} rows of data but {len(part)} of context.")
            if part.is_floating_point() and not bool(torch.isfinite(part).all()):
                raise DataError(f"{who}: the context holds NaN or infinite values.")
    if hasattr(model, "event_shape"):
        check_context(context, declared, who)
    return context


def _context_tensor(value: Any, dtype: torch.dtype) -> Tensor:
    tensor = value if isinstance(value, Tensor) else _tensor(np.asarray(value))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor.to(torch.int64)


def _weights(weight: Any, rows: int, dtype: torch.dtype) -> Tensor | None:
    """The weights (N,), scaled to mean 1."""
    if weight is None:
        return None
    tensor = (weight if isinstance(weight, Tensor) else _tensor(np.asarray(weight))).to(dtype)
    if tensor.shape != (rows,):
        raise ShapeError(f"fit: expected sample_weight of shape ({rows},); got {tuple(tensor.shape)}.")
    if not bool((torch.isfinite(tensor) & (tensor >= 0)).all()) or float(tensor.sum()) <= 0:
        raise DataError("fit: expected finite sample_weight >= 0 that is not zero everywhere.")
    return mean_one(tensor)


def mean_one(weight: Tensor) -> Tensor:
    """Weights scaled to mean 1; their sum is not zero."""
    return (weight.double() / weight.double().mean()).to(weight.dtype)


def _index(context: Any, index: Any) -> Any:
    if context is None:
        return None
    return {key: value[index] for key, value in context.items()} if isinstance(context, dict) else context[index]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return Batch(
        _move(batch.x, device), _move(batch.context, device), batch.size, _move(batch.index, device), {k: _move(v, device) for k, v in batch.extra.items()}
    )


def _move(value: Any, device: torch.device) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        return {key: _move(part, device) for key, part in value.items()}
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def first(items: Iterable[Batch]) -> Batch | None:
    """The first batch, or None."""
    return next(iter(items), None)
