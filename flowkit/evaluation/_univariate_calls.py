"""What the univariate maps inside a layer were called with."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.univariate import Univariate


@dataclass
class UnivariateUse:
    """Collected over the calls of one layer.

    Attributes:
        saturated: share of parameter sets at a limit; tail: share of values in no bin.
        bins_used: effective number of bins of the least used coordinate, of ``bins``.
    """

    _limits: list[Tensor] = field(default_factory=list)
    _pieces: list[Tensor] = field(default_factory=list)
    bins: int | None = None

    def add(self, univariate: Univariate, z: Tensor, params: Tensor) -> None:
        """Note one call: latent-side values (*S) and parameters (*S, count)."""
        limits, pieces = univariate.saturated(params), univariate.bins_of(z, params)
        if limits is not None:
            self._limits.append(limits.flatten())
        if pieces is not None:
            self.bins = int(getattr(univariate, "bins", int(pieces.max()) + 1))
            self._pieces.append(pieces.reshape(-1, pieces.shape[-1]))

    @property
    def saturated(self) -> float | None:
        return float(torch.cat(self._limits).double().mean()) if self._limits else None

    @property
    def tail(self) -> float | None:
        return float(torch.cat([piece.flatten() for piece in self._pieces]).lt(0).double().mean()) if self._pieces else None

    @property
    def bins_used(self) -> float | None:
        if not self._pieces or self.bins is None:
            return None
        return min(_effective(column[column >= 0], self.bins) for pieces in self._pieces for column in pieces.unbind(-1))


# the calls of a univariate, and whether they go back
CALLS = {"transform": False, "transform_event": False, "untransform": True, "untransform_event": True}


def _effective(pieces: Tensor, bins: int) -> float:
    """exp of the entropy of how often each bin is met."""
    if not len(pieces):
        return 0.0
    share = torch.bincount(pieces, minlength=bins).double() / len(pieces)
    return float(torch.special.entr(share).sum().exp())


@contextmanager
def univariate_use(layer: nn.Module) -> Iterator[UnivariateUse]:
    """Watch the calls of every univariate inside a layer; nothing is changed once the block ends."""
    use = UnivariateUse()
    watched = [module for module in layer.modules() if isinstance(module, Univariate)]

    inner: list[bool] = []  # not empty inside a call: one calls another, an inverse by root finding many times

    def watch(univariate: Univariate, call: Any, back: bool, value: Tensor, params: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
        inner.append(True)
        try:
            out = call(value, params, *more)
        finally:
            inner.pop()
        if not inner:
            use.add(univariate, out[0] if back else value, params)
        return out

    for module in watched:
        for name, back in CALLS.items():
            setattr(module, name, functools.partial(watch, module, getattr(module, name), back))
    try:
        yield use
    finally:
        for module in watched:
            for name in CALLS:
                delattr(module, name)
