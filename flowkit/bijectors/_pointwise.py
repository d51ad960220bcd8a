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
    """One scalar map on every coordinate. A subclass writes ``_value``, ``_preimage`` and ``_log_slope``, elementwise.

    Args:
        shape: event shape, all sizes known.
        domain, codomain: ends of the intervals; infinite for the whole line.
    """

    traits = Traits(jacobian="diagonal")

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        domain: tuple[float, float] = (-torch.inf, torch.inf),
        codomain: tuple[float, float] = (-torch.inf, torch.inf),
    ) -> None:
        super().__init__()
        self.shape = shape
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

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._value(z), sum_event(self._log_slope(z), len(self.in_shape))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = self._preimage(x)
        return z, -sum_event(self._log_slope(z), len(self.in_shape))


class Stepwise(Pointwise):
    """A pointwise map that is a step of ``kernels.diagonal_steps``: neighbours in a chain share a pass with it."""

    def _program(self) -> str:
        """The step, with its number as it is now."""
        raise NotImplementedError

    def diagonal_steps(self) -> Steps:
        return Steps(self._program())

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.diagonal_steps()(z, len(self.in_shape))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.diagonal_steps().inverted()(x, len(self.in_shape))
