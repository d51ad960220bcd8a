"""The contract of data sets: named, seeded, split three ways, and loaded when first looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from flowkit.core.build import describe
from flowkit.core.registry import DATA, Registry


class Split(NamedTuple):
    """Rows of a data set: ``x`` (N, *event) float32, and their ``context`` (N, *context) or None."""

    x: Tensor
    context: Tensor | None = None


class Scale(NamedTuple):
    """The affine map from raw units to the units of a standardised table: x = (raw - loc) / scale.

    Args:
        loc, scale: (D,), float64.
    """

    loc: Tensor
    scale: Tensor

    def standardize(self, raw: Tensor) -> Tensor:
        """Raw units to the units of the table, (*B, D) -> (*B, D), in the input's dtype."""
        return ((raw - self.loc) / self.scale).to(raw.dtype)

    def restore(self, x: Tensor) -> Tensor:
        """The units of the table to raw units, (*B, D) -> (*B, D), in the input's dtype."""
        return (x * self.scale + self.loc).to(x.dtype)

    @property
    def log_det_per_row(self) -> float:
        """log|det dx/draw|: add it to a log-density of x to get the log-density of the raw row, in nats."""
        return -float(self.scale.log().sum())


class _Parts(NamedTuple):
    """What loading gives."""

    train: Split
    validation: Split
    test: Split
    names: tuple[str, ...] | None = None
    scale: Scale | None = None


class Dataset:
    """A data set by name: three splits of float32 events, perhaps with a context for each.

    Implement ``_load() -> _Parts``; it runs once, when a split is first looked at, so building one costs nothing.
    The constructor takes keyword options and stores them unchanged.

    Attributes:
        license: terms of use of the data, as its source states them.
        source: where the data come from.
    """

    registries: ClassVar[tuple[Registry, ...]] = (DATA,)
    license: str = ""
    source: str = ""

    def _load(self) -> _Parts:
        raise NotImplementedError(f"{type(self).__name__} defines no _load.")

    @cached_property
    def _parts(self) -> _Parts:
        return self._load()

    @property
    def train(self) -> Split:
        """What to fit on."""
        return self._parts.train

    @property
    def validation(self) -> Split:
        """What to choose and stop by."""
        return self._parts.validation

    @property
    def test(self) -> Split:
        """What to report on."""
        return self._parts.test

    @property
    def names(self) -> tuple[str, ...] | None:
        """Column names of a table, or None."""
        return self._parts.names

    @property
    def scale(self) -> Scale | None:
        """How a standardised table relates to raw units, or None."""
        return self._parts.scale

    @property
    def log_det_per_row(self) -> float:
        """log|det dx/draw|; 0 for data that are not standardised. Log-density of a raw row = log-density of x + this."""
        return 0.0 if self.scale is None else self.scale.log_det_per_row

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(self.train.x.shape[1:])

    @property
    def features(self) -> int:
        """Numbers in one event."""
        return math.prod(self.event_shape)

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape of one context; () for labels, None without a context."""
        return None if self.train.context is None else tuple(self.train.context.shape[1:])

    @property
    def class_count(self) -> int:
        """Number of classes when the context is a label, otherwise 0."""
        labels = [part.context for part in (self.train, self.validation, self.test) if part.context is not None and part.context.numel()]
        if not labels or labels[0].dtype != torch.int64:
            return 0
        return 1 + max(int(part.max()) for part in labels)

    @property
    def at_hand(self) -> bool:
        """Whether the data load without a download."""
        return True

    def describe(self) -> dict[str, Any]:
        """``{name: <registered>, **arguments}``."""
        return describe(self)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.describe().items() if key != "name")
        return f"{type(self).__name__}({arguments})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Dataset]]:
        """Small labelled instances that need no download."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
