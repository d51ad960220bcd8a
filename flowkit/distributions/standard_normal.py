"""The standard normal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import as_shape
from flowkit.core.tally import standard_log_normal
from flowkit.numerics.normal_tails import normal_cdf


@DISTRIBUTIONS.register("standard_normal")
class StandardNormal(Distribution):
    """N(0, I) on events of a shape.

    Args:
        shape: event shape, all sizes known.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.event_shape = as_shape(shape, "StandardNormal")

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return standard_log_normal(x, len(self.event_shape))

    def log_prob_under(self, transform: Any, y: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        if type(self) is not StandardNormal:
            return super().log_prob_under(transform, y, context, generator)  # a subclass may have a density of its own
        made: tuple[Tensor, Tensor | None]
        made = transform.masked_normal(y, None if transform.context_shape is None else context, inverse=True, generator=generator)
        return made

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        size = (*shape, *self.event_shape)
        return temperature * torch.randn(size, generator=generator, dtype=self.like.dtype, device=self.like.device)  # type: ignore[arg-type]

    def score(self, x: Tensor, context: Any = None) -> Tensor:
        return -x

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of each coordinate: (*B, *event) -> (*B, *event)."""
        return normal_cdf(x)

    def icdf(self, p: Tensor) -> Tensor:
        """Quantile of each coordinate: probabilities (*B, *event) -> (*B, *event)."""
        return torch.special.ndtri(p)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, StandardNormal]]:
        yield "line", cls((1,))
        yield "plane", cls((2,))
