"""The law of a data set: resampling, and its Gaussian kernel density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NotInvertibleError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._starts import unit_temperature
from flowkit.numerics.log_mixture import log_mixture

CHUNK = 4096  # rows of data compared with an event at a time


@DISTRIBUTIONS.register("empirical")
class Empirical(Distribution):
    """Rows of a data set, drawn with replacement, plus N(0, bandwidth^2 I) noise; no temperature.

    With a bandwidth h the density is the kernel density (1/N) sum_n N(x; data_n, h^2 I), at cost O(N D) an event.
    Without one there is no density: it can only be sampled.

    Args:
        data: (N, *event), floating.
        bandwidth: standard deviation of the noise in each coordinate, >= 0.

    Example:
        >>> import torch
        >>> from flowkit.distributions import Empirical
        >>> round(Empirical(torch.zeros(3, 1), bandwidth=1.0).log_prob(torch.zeros(1)).item(), 4)
        -0.9189
    """

    data: Tensor

    def __init__(self, data: Tensor, *, bandwidth: float = 0.0) -> None:
        super().__init__()
        if not isinstance(data, Tensor) or not data.is_floating_point() or data.dim() < 1 or data.numel() == 0:
            got = f"{data.dtype} {tuple(data.shape)}" if isinstance(data, Tensor) else type(data).__name__
            raise ConfigError(f"{self.who}: expected floating data (N, *event) with N >= 1; got {got}. Convert with torch.as_tensor(...).float().")
        if not (math.isfinite(bandwidth) and bandwidth >= 0):
            raise ConfigError(f"{self.who}: expected a finite bandwidth >= 0; got {bandwidth}.")
        self.bandwidth = bandwidth
        self.register_buffer("data", data, persistent=False)
        self.event_shape = tuple(data.shape[1:])

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        if self.bandwidth == 0:
            raise NotInvertibleError(f"{self.who}.log_prob: rows alone have no density. Give a bandwidth > 0, or only sample.")
        rank = len(self.event_shape)
        dtype = torch.promote_types(x.dtype, torch.float32)
        column = x.to(dtype).unsqueeze(x.dim() - rank)
        parts = [log_mixture(sum_event(-0.5 * ((column - rows) / self.bandwidth).square(), rank), -1) for rows in self.data.to(dtype).split(CHUNK)]
        size = math.prod(self.data.shape[1:])
        return log_mixture(torch.stack(parts), 0) - math.log(len(self.data)) - size * (math.log(self.bandwidth) + HALF_LOG_2PI)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        unit_temperature(temperature, self.who)
        rows = torch.randint(len(self.data), shape, generator=generator, device=self.like.device)
        x = self.data[rows].to(self.like.dtype)
        if self.bandwidth == 0:
            return x
        return x + self.bandwidth * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Empirical]]:
        yield "line", cls(torch.tensor([[-1.0], [0.5], [2.0]]), bandwidth=0.5)
        yield "plane", cls(torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -2.0]]), bandwidth=0.75)
