"""Event shapes and batches: the one rule for what is event and what is batch.

Letters used in docstrings: ``*B`` batch, ``D`` data, ``d`` latent, ``C`` context, ``K`` bins or components,
``S`` Monte Carlo draws, ``T`` times, ``N`` particles. An event shape is a tuple whose entries may be ``None`` (any size).
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError

Shape: TypeAlias = tuple[int | None, ...]
ContextShape: TypeAlias = "Shape | dict[str, Shape] | None"
Context: TypeAlias = "Tensor | Mapping[str, Tensor] | None"


def as_shape(value: int | Sequence[int | None], who: str) -> Shape:
    """Read an event shape: an int means one axis; sizes must be positive ints or None."""
    if not isinstance(value, numbers.Integral | list | tuple):
        raise ConfigError(f"{who}: expected a shape, an int or a tuple of ints; got {value!r}. Pass e.g. (4,).")
    entries = tuple(value) if isinstance(value, list | tuple) else (value,)
    sizes = tuple(None if size is None else plain_int(size) for size in entries)
    if any((size is None and entry is not None) or (size is not None and size < 1) for size, entry in zip(sizes, entries, strict=True)):
        raise ConfigError(f"{who}: expected a shape of positive ints; got {value!r}. Pass e.g. (4,).")
    return sizes


def plain_int(value: Any) -> int | None:
    """An integer of Python or numpy as a plain int; None for anything else, True and False included."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def positive(value: Any, who: str, name: str) -> int:
    """Check a size argument, an int of at least 1, and return it as a plain int; numpy's integers count as ints."""
    return whole_number(value, who, name, 1)


def whole_number(value: Any, who: str, name: str, least: int, below: float = float("inf")) -> int:
    """Check an argument that is an int >= ``least`` and < ``below``, and return it as a plain int."""
    size = plain_int(value)
    if size is None or not least <= size < below:
        end = "" if below == float("inf") else f" and < {below:.0f}"
        raise ConfigError(f"{who}: expected {name} to be an int >= {least}{end}; got {value!r}.")
    return size


def positive_sizes(values: Any, who: str, name: str) -> tuple[int, ...]:
    """Check a sequence of size arguments, such as the widths of hidden layers; it may be empty."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{who}: expected {name} to be a sequence of ints >= 1; got {values!r}. Pass e.g. (64, 64).")
    return tuple(positive(value, who, name) for value in values)


def positive_number(value: Any, who: str, name: str) -> float:
    """Check an argument that is a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) < float("inf"):
        raise ConfigError(f"{who}: expected {name} to be a finite number > 0; got {value!r}.")
    return value if isinstance(value, int) else float(value)


def flag(value: Any, who: str, name: str) -> bool:
    """Check an argument that is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{who}: expected {name} to be True or False; got {value!r}.")
    return bool(value)


def check_temperature(temperature: float, who: str) -> None:
    """Check a sampling temperature: a number >= 0; 0 draws the centre."""
    if not isinstance(temperature, numbers.Real) or not 0 <= temperature < float("inf"):
        raise ConfigError(f"{who}: expected temperature to be a finite number >= 0; got {temperature!r}.")


def sample_shape(shape: int | Sequence[int], who: str) -> tuple[int, ...]:
    """Read a sample shape: an int means one axis; sizes may be zero."""
    sizes = (shape,) if isinstance(shape, numbers.Integral) else shape
    if not isinstance(sizes, Sequence) or any(not isinstance(size, numbers.Integral) or size < 0 for size in sizes):
        raise ShapeError(f"{who}: expected a sample shape of ints >= 0; got {shape!r}.")
    return tuple(int(size) for size in sizes)


def unify(a: Shape, b: Shape) -> Shape | None:
    """The shape both agree on (``None`` entries match anything), or None when they clash."""
    if len(a) != len(b):
        return None
    merged: list[int | None] = []
    for x, y in zip(a, b, strict=True):
        if x is not None and y is not None and x != y:
            return None
        merged.append(y if x is None else x)
    return tuple(merged)


def batch_shape(value: Tensor, event: Shape) -> torch.Size:
    """Leading axes of ``value`` once the event axes are taken off."""
    return value.shape[: value.dim() - len(event)]


def sum_event(value: Tensor, rank: int) -> Tensor:
    """Sum the last ``rank`` axes, in float32 at least: (*B, *event) -> (*B)."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    if rank == 0:
        return value.to(dtype)
    return value.sum(dim=tuple(range(-rank, 0)), dtype=dtype)


def zeros_log_det(value: Tensor, event: Shape) -> Tensor:
    """A zero log-determinant for a batch: (*B), float32 at least."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    return torch.zeros(batch_shape(value, event), dtype=dtype, device=value.device)


def constant_log_det(constant: Tensor, value: Tensor, event: Shape) -> Tensor:
    """A log-determinant that is the same for the whole batch: () -> (*B), float32 at least."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    return constant.to(dtype).expand(batch_shape(value, event))


def check_event(value: Any, event: Shape, who: str) -> None:
    """Raise ShapeError unless ``value`` is a floating tensor that ends in ``event``."""
    if not isinstance(value, Tensor):
        raise ShapeError(f"{who}: expected a tensor; got {type(value).__name__}. Use torch.as_tensor(...).")
    if not value.is_floating_point():
        raise ShapeError(f"{who}: expected a floating dtype; got {value.dtype}. Convert with .float() or .double().")
    rank = len(event)
    tail = tuple(value.shape[value.dim() - rank :]) if value.dim() >= rank else None
    if tail is None or any(want is not None and want != got for want, got in zip(event, tail, strict=True)):
        raise ShapeError(f"{who}: expected trailing shape {show(event)}; got {tuple(value.shape)}. Reshape the input, or build the map for that shape.")


def check_score(score: Any, value: Tensor, who: str) -> Tensor:
    """A score as a constant of the value's shape and dtype; raise ShapeError unless it is, or broadcasts to it."""
    if not isinstance(score, Tensor) or score.dtype != value.dtype:
        got = score.dtype if isinstance(score, Tensor) else type(score).__name__
        raise ShapeError(f"{who}: expected a score of {value.dtype}, as the point; got {got}.")
    try:
        return score.detach().expand_as(value)
    except RuntimeError:
        raise ShapeError(f"{who}: expected a score of the point's shape {tuple(value.shape)}; got {tuple(score.shape)}.") from None


def show(shape: Shape) -> str:
    """Print a shape with ``*`` for any size."""
    inner = ", ".join("*" if size is None else str(size) for size in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def check_context(context: Context, expected: ContextShape, who: str) -> None:
    """Raise ShapeError unless the context is present exactly when declared and ends in the declared shape."""
    if expected is None:
        if context is not None:
            raise ShapeError(f"{who}: got a context but declares none. Drop it, or build with context_features= or context_shape=.")
        return
    if context is None:
        raise ShapeError(f"{who}: expected a context of trailing shape {_show_context(expected)}; got none. Pass context=.")
    if isinstance(expected, dict):
        if not isinstance(context, Mapping) or set(context) != set(expected):
            got = sorted(context) if isinstance(context, Mapping) else type(context).__name__
            raise ShapeError(f"{who}: expected a context dict with keys {sorted(expected)}; got {got}.")
        for key, shape in expected.items():
            check_context(context[key], shape, f"{who} context[{key!r}]")
        return
    if not isinstance(context, Tensor):
        raise ShapeError(f"{who}: expected a context tensor; got {type(context).__name__}.")
    if not context.is_floating_point() and not (expected == () and context.dtype == torch.int64):
        raise ShapeError(f"{who}: expected a floating context, or int64 labels for context_shape=(); got {context.dtype}.")
    rank = len(expected)
    tail = tuple(context.shape[context.dim() - rank :]) if context.dim() >= rank else None
    if tail is None or any(want is not None and want != got for want, got in zip(expected, tail, strict=True)):
        raise ShapeError(f"{who}: expected a context of trailing shape {show(expected)}; got {tuple(context.shape)}.")


def _show_context(expected: Shape | dict[str, Shape]) -> str:
    if isinstance(expected, dict):
        return "{" + ", ".join(f"{key}: {show(shape)}" for key, shape in expected.items()) + "}"
    return show(expected)


def context_batch(context: Context, expected: ContextShape) -> torch.Size:
    """Batch shape of a context: all its parts broadcast together."""
    if context is None or expected is None:
        return torch.Size()
    if isinstance(expected, dict):
        assert isinstance(context, Mapping)
        return torch.broadcast_shapes(*(context_batch(context[key], shape) for key, shape in expected.items()))
    assert isinstance(context, Tensor)
    return batch_shape(context, expected)


def needs_gradient(context: Context) -> bool:
    """Whether a context, or a part of it, is to be differentiated."""
    if isinstance(context, Mapping):
        return any(needs_gradient(part) for part in context.values())
    return isinstance(context, Tensor) and context.requires_grad


def expand_context(context: Context, expected: ContextShape, batch: Sequence[int]) -> Context:
    """Broadcast every part of a context to a batch shape."""
    if context is None or expected is None:
        return None
    if isinstance(expected, dict):
        assert isinstance(context, Mapping)
        return {key: expand_context(context[key], shape, batch) for key, shape in expected.items()}  # type: ignore[misc]
    assert isinstance(context, Tensor)
    return context.expand((*batch, *context.shape[context.dim() - len(expected) :]))


def broadcast_batch(value: Tensor, event: Shape, context: Context, expected: ContextShape, who: str) -> Tensor:
    """Broadcast the batch of ``value`` against the batch of ``context``: (*B, *event) -> (*broadcast(B, Bc), *event)."""
    own, other = batch_shape(value, event), context_batch(context, expected)
    if own == other or not other:
        return value
    try:
        batch = torch.broadcast_shapes(own, other)
    except RuntimeError:
        raise ShapeError(f"{who}: batch {tuple(own)} and context batch {tuple(other)} do not broadcast. Add or expand an axis.") from None
    return value if batch == own else value.expand(*batch, *value.shape[len(own) :])


def mask_event(mask: Tensor, rank: int) -> Tensor:
    """Append ``rank`` axes of size one so that a batch mask broadcasts over events."""
    return mask.reshape((*mask.shape, *([1] * rank)))
