"""What fixed elementwise maps share: a shape, domains that are boxes, and a sum of log-slopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import as_shape, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.kernels.diagonal_chain import Steps


class Pointwise(Bijector):
    """One scalar map on every coordinate. A subclass names a step of ``kernels.diagonal_steps``, which neighbours then share a pass with,
    or writes ``_value``, ``_preimage`` and ``_log_slope``, elementwise.

    Args:
        shape: event shape, all sizes known.
        domain, codomain: ends of the intervals; infinite for the whole line.
        step: the map, where it is such a step.
    """

    traits = Traits(jacobian="diagonal")

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        domain: tuple[float, float] = (-torch.inf, torch.inf),
        codomain: tuple[float, float] = (-torch.inf, torch.inf),
        step: str | None = None,
    ) -> None:
        super().__init__()
        self.shape, self._step = shape, step
        self.in_shape = self.out_shape = as_shape(shape, self.who)
        if None in self.in_shape:
            raise ConfigError(f"{self.who}: expected a shape of known sizes; got {shape!r}. Pass e.g. (3, 32, 32).")
        self._domain, self._codomain = self._box(domain), self._box(codomain)

    def _box(self, ends: tuple[float, float]) -> Box | None:
        return None if ends == (-torch.inf, torch.inf) else Box(*ends, tuple(int(size) for size in self.in_shape if size is not None))

    def _value(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def _preimage(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_slope(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def diagonal_steps(self) -> Steps | None:
        return None if self._step is None else Steps(self._step)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        if self._step is not None:
            return Steps(self._step)(z, len(self.in_shape))
        return self._value(z), sum_event(self._log_slope(z), len(self.in_shape))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        if self._step is not None:
            return Steps(self._step).inverted()(x, len(self.in_shape))
        z = self._preimage(x)
        return z, -sum_event(self._log_slope(z), len(self.in_shape))
