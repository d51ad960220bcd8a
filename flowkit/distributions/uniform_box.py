"""Uniform laws on boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, sum_event
from flowkit.distributions._starts import unit_temperature


@DISTRIBUTIONS.register("uniform_box")
class UniformBox(Distribution):
    """The uniform law on {low <= x <= high}; no temperature.

    Args:
        low, high: finite bounds, a number or one per coordinate.
        dim: number of coordinates, or an event shape; default the shape of the bounds.

    Example:
        >>> import torch
        >>> from flowkit.distributions import UniformBox
        >>> UniformBox(0.0, 2.0, 1).log_prob(torch.tensor([[0.5], [3.0]])).exp().tolist()
        [0.5, 0.0]
    """

    _support: Box

    def __init__(
        self,
        low: float | Sequence[float] | Tensor = 0.0,
        high: float | Sequence[float] | Tensor = 1.0,
        dim: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        box = Box(low, high, dim)
        self.low, self.high, self.dim = low, high, box.dim
        if not box.bounded:
            raise ConfigError(f"{self.who}: expected finite bounds; got low={low}, high={high}.")
        self._support = box
        self.event_shape = box.event_shape

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return self._support.low_buffer.to(like), self._support.high_buffer.to(like)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        low, high = self._ends(x)
        rank = len(self.event_shape)
        return -sum_event((high - low).log(), rank).expand(x.shape[: x.dim() - rank])

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        unit_temperature(temperature, self.who)
        return self._support.uniform(math.prod(shape), generator).reshape(*shape, *self._support.low_buffer.shape)

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        """Zero: (*B, *event)."""
        return torch.zeros_like(x)

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of each coordinate: (*B, *event) -> (*B, *event)."""
        low, high = self._ends(x)
        return ((x - low) / (high - low)).clamp(0.0, 1.0)

    def icdf(self, p: Tensor) -> Tensor:
        """Quantile of each coordinate: probabilities (*B, *event) -> (*B, *event)."""
        low, high = self._ends(p)
        return low + p * (high - low)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UniformBox]]:
        yield "interval", cls(-1.0, 2.0, 1)
        yield "rectangle", cls([0.0, -1.0], [1.0, 3.0])
