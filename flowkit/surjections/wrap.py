"""Wrapping the line onto a circle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import as_shape, sum_event
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits


@SURJECTIONS.register("wrap")
class Wrap(Surjection):
    """x = low + (z - low) mod (high - low) in every coordinate; the inverse draws how often the circle is wound round.

    The number of turns k has probability proportional to exp(-rate |k|), the rate learned; the contribution of ``inverse`` is
    minus its log-probability. The bound is that on the sum over all turns, the wrapped density.

    Args:
        shape: event shape.
        low, high: ends of the interval, which are one point of the circle.

    Reference: Rezende et al. (2020), Normalizing Flows on Tori and Spheres, arXiv:2002.02428, section 2 (wrapping); Nielsen et
    al. (2020), SurVAE Flows, arXiv:2007.02731, for its likelihood.
    """

    traits = Traits(log_det="bound", stochastic=True, jacobian="diagonal", smooth=False)

    def __init__(self, shape: int | Sequence[int], low: float = -math.pi, high: float = math.pi) -> None:
        super().__init__()
        self.shape, self.low, self.high = shape, low, high
        self.in_shape = self.out_shape = as_shape(shape, "Wrap")
        if None in self.in_shape:
            raise ConfigError(f"Wrap: expected a shape of known sizes; got {shape!r}.")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"Wrap: expected finite low < high; got {low} and {high}.")
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        self.raw_rate = nn.Parameter(torch.zeros(sizes))
        self._codomain = Box(low, high, sizes)

    def _rate(self) -> Tensor:
        # the mean of |k| is 1 / sinh(rate): at most ten turns, so that x + k (high - low) keeps its digits whatever raw_rate is,
        # and log tanh(rate / 2) stays finite
        return 0.1 + functional.softplus(self.raw_rate)

    def _log_probability(self, turns: Tensor) -> Tensor:
        rate = self._rate()
        # the sum of exp(-rate |k|) over all k is (1 + exp(-rate)) / (1 - exp(-rate)) = coth(rate / 2)
        return sum_event(-rate * turns.abs() + torch.tanh(0.5 * rate).log(), len(self.in_shape))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        period = self.high - self.low
        turns = torch.floor((z - self.low) / period)
        return (z - turns * period).clamp(self.low, self.high), self._log_probability(turns)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rate = self._rate().detach().expand_as(x)
        u = torch.rand((2, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
        # the difference of two geometric numbers has the two-sided law
        first, second = torch.floor(-torch.log1p(-u) / rate).unbind(0)
        turns = first - second
        return x + turns * (self.high - self.low), -self._log_probability(turns)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Wrap]]:
        yield "angles", cls(2)
        yield "unit", cls((3,), 0.0, 1.0)
