"""What fixed elementwise maps share: a shape, domains that are boxes, and a sum of log-slopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_scalars
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import as_shape, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.kernels.diagonal_chain import Steps


class Pointwise(Bijector):
    """One scalar map without parameters on every coordinate. A subclass writes ``_value``, ``_preimage`` and ``_log_slope``, elementwise.

    Args:
        shape: event shape, all sizes known.
        domain, codomain: ends of the intervals; infinite for the whole line.
    """

    traits = Traits(jacobian="diagonal", score="closed")

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

    def _scalars(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """A call before the log-slopes are added up."""
        if inverse:
            z = self._preimage(value)
            return z, -self._log_slope(z)
        return self._value(value), self._log_slope(value)

    def _sign(self) -> float:
        """-1.0 for a decreasing map."""
        return 1.0

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return carry_scalars(lambda point: self._scalars(point, inverse), value, score, len(self.in_shape), self._sign())

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

    def _scalars(self, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        steps = self.diagonal_steps()
        return (steps.inverted() if inverse else steps)(value, 0)

    _carry = Pointwise._carry  # a formula of its own would leave it behind

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.diagonal_steps()(z, len(self.in_shape))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.diagonal_steps().inverted()(x, len(self.in_shape))
