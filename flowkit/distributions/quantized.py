"""Laws on grids of integers, from continuous ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.domain.integers import Integers
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import sum_event, whole_number
from flowkit.distributions._cell_mass import log_cell_mass


@DISTRIBUTIONS.register("quantized")
class Quantized(Distribution):
    """The nearest level to a draw of a continuous law with independent coordinates: k in {0, 1, ..., levels - 1}, as floats.

    P(k) = F(k + 1/2) - F(k - 1/2), F the base's distribution function; the outermost levels take the tails,
    P(0) = F(1/2) and P(levels - 1) = 1 - F(levels - 3/2). ``log_prob`` is the log of that probability summed over coordinates,
    and minus infinity off the grid. The base lives on the scale of the levels: for 256 of them a mean near 128.

    Normal bases are exact at any distance. For other bases the density, the derivative of F, is integrated where differences of F
    have lost half of their digits: to 1e-4 nats where that derivative has digits (torch's own Laplace law has none beyond
    36 scales in float64 and 15 in float32). Probabilities below the smallest normal float (1e-38 in float32) stay there, without
    a gradient.

    Gradients reach the base's parameters and context; those in k are of the same formula between the levels. Draws round the
    base's and have no gradient; a temperature is the base's. Cost: two calls of F, and sixteen derivatives of it where needed.

    Args:
        base: a distribution with ``cdf`` and a known event shape; a conditional one makes this one conditional.
        levels: number of levels, at least 2.

    Reference: Salimans et al. (2017), PixelCNN++, arXiv:1701.05517, section 2.1, for the convention.

    Example:
        >>> import torch
        >>> from flowkit.distributions import DiagonalNormal, Quantized
        >>> dice = Quantized(DiagonalNormal((1,), loc=2.5, scale=2.0), 6)
        >>> [round(p, 4) for p in dice.log_prob(torch.arange(6.0).unsqueeze(-1)).exp().tolist()]
        [0.1587, 0.1499, 0.1915, 0.1915, 0.1499, 0.1587]
    """

    reparametrized = False
    _support: Integers

    def __init__(self, base: Distribution, levels: int) -> None:
        super().__init__()
        self.base, self.levels = base, whole_number(levels, self.who, "levels", 2)
        shape = base.event_shape
        if not hasattr(base, "cdf") or None in shape:
            raise ConfigError(f"{self.who}: expected a base with a cdf and a known event shape; got {type(base).__name__}. Use e.g. DiagonalNormal.")
        self._support = Integers(levels, shape)
        self.event_shape, self.context_shape, self.can_sample = shape, base.context_shape, base.can_sample

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        low = torch.where(x < 0.5, -torch.inf, x - 0.5)
        high = torch.where(x > self.levels - 1.5, torch.inf, x + 0.5)
        return sum_event(log_cell_mass(self.base, low, high, context), len(self.event_shape))

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        with torch.no_grad():
            own = () if self.context_shape is not None else shape  # the context is expanded to the whole shape already
            return self.base.rsample(own, context, generator, temperature).round().clamp(0, self.levels - 1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Quantized]]:
        normal: dict[str, Any] = {"name": "diagonal_normal", "shape": (2,), "loc": 3.0, "scale": 2.0}
        yield "normal", cls(build(normal, Distribution), 8)
        yield "student_t", cls(build({"name": "student_t", "shape": (1,), "loc": 1.5, "df": 3.0}, Distribution), 4)
        yield "conditional", cls(build(normal | {"context_features": 2}, Distribution), 8)
