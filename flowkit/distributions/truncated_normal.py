"""Normals cut off at the ends of a box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.domain.box import Box
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_event, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._starts import known_shape, start
from flowkit.numerics.log_normal_cdf import log_interval, log_ndtr, log_ndtri

NO_END = 1e9  # standard units that stand for an infinite end; squares of it fit float32


@DISTRIBUTIONS.register("truncated_normal")
class TruncatedNormal(Distribution):
    """Independent normals N(loc, scale^2) conditioned on low <= x <= high, loc and log scale learned.

    p(x) = phi(t) / (scale (Phi(b) - Phi(a))), t, a, b the standardised x, low and high. The normaliser is kept as a logarithm
    on the side of the tail, so intervals hundreds of scales away from loc are fine. Sampling inverts the distribution function
    in logarithms and is differentiable in both parameters. A temperature scales ``scale``: the tempered law p^(1/T^2).

    Args:
        low, high: ends of the box, numbers or tensors, -inf and inf allowed.
        shape: event shape, all sizes known; default the shape of the ends.
        loc, scale: where training starts; numbers or tensors that broadcast to the shape; scale > 0.

    Example:
        >>> import torch
        >>> from flowkit.distributions import TruncatedNormal
        >>> round(TruncatedNormal(0.0, torch.inf, (1,)).log_prob(torch.zeros(1)).item(), 4)      # log 2 - log(2 pi) / 2
        -0.2258
    """

    _support: Box

    def __init__(
        self,
        low: float | Sequence[float] | Tensor = 0.0,
        high: float | Sequence[float] | Tensor = 1.0,
        shape: int | Sequence[int] | None = None,
        *,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
    ) -> None:
        super().__init__()
        self.low, self.high, self.shape, self.loc, self.scale = low, high, shape, loc, scale
        self._support = Box(low, high, shape if shape is None else known_shape(shape, self.who))
        self.event_shape = self._support.event_shape
        sizes = tuple(self._support.low_buffer.shape)
        self.mean = nn.Parameter(start(loc, sizes, self.who, "loc"))
        self.log_scale = nn.Parameter(start(scale, sizes, self.who, "scale", positive=True).log())

    def _ends(self, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised ends; an infinite one becomes a far one without a gradient."""
        found = []
        for end, far in ((self._support.low_buffer, -NO_END), (self._support.high_buffer, NO_END)):
            finite = torch.isfinite(end)
            units = (torch.where(finite, end, 0.0) - self.mean) * torch.exp(-log_scale)
            found.append(torch.where(finite, units, far))
        return found[0], found[1]

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        top, log_mass = log_interval(*self._ends(self.log_scale))
        # t^2 - top^2, from the distance to the end that is the mode: far out both squares are huge
        box, inverse_scale = self._support, (-self.log_scale).exp()
        mode = torch.where(top > 0, box.low_buffer, torch.where(top < 0, box.high_buffer, self.mean))
        difference = (x - mode) * inverse_scale
        total = (x - self.mean) * inverse_scale + top
        log_prob = -0.5 * difference * total - HALF_LOG_2PI - self.log_scale - log_mass
        return sum_event(log_prob, len(self.event_shape))

    def _quantile(self, p: Tensor, log_scale: Tensor) -> Tensor:
        """The point with a share p of the mass below it, from the end of the normal it is nearer to."""
        a, b = self._ends(log_scale)
        tiny = torch.finfo(p.dtype).tiny
        log_p, log_q = p.clamp(min=tiny).log(), (1 - p).clamp(min=tiny).log()
        below = torch.logaddexp(log_ndtr(a) + log_q, log_ndtr(b) + log_p)
        above = torch.logaddexp(log_ndtr(-a) + log_q, log_ndtr(-b) + log_p)
        left = below < above
        t = log_ndtri(torch.where(left, below, above))
        x = self.mean + log_scale.exp() * torch.where(left, t, -t)
        held = torch.minimum(torch.maximum(x, self._support.low_buffer), self._support.high_buffer)
        return x + (held - x).detach()

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        size = (*shape, *self.mean.shape)
        if temperature == 0:
            mode = torch.minimum(torch.maximum(self.mean, self._support.low_buffer), self._support.high_buffer)
            return mode.expand(size)
        p = torch.rand(size, generator=generator, dtype=self.like.dtype, device=self.like.device)
        return self._quantile(p, self.log_scale + torch.tensor(temperature, dtype=self.like.dtype, device=self.like.device).log())

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        if context is not None:
            return super().score(x, context)
        check_event(x, self.event_shape, f"{self.who}.score")
        return (self.mean - x) * (-2 * self.log_scale).exp()

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of each coordinate: (*B, *event) -> (*B, *event)."""
        a, b = self._ends(self.log_scale)
        t = (x - self.mean) * (-self.log_scale).exp()
        inside = (t > a) & (t < b)
        (top, log_part), (whole_top, log_whole) = log_interval(a, torch.where(inside, t, b)), log_interval(a, b)
        share = torch.exp(log_part - log_whole - 0.5 * (top - whole_top) * (top + whole_top))
        return torch.where(inside, share, (t >= b).to(share.dtype))

    def icdf(self, p: Tensor) -> Tensor:
        """Quantile of each coordinate: probabilities (*B, *event) -> (*B, *event)."""
        return self._quantile(p, self.log_scale)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TruncatedNormal]]:
        yield "interval", cls(-1.0, 2.0, (1,), loc=0.5)
        yield "tails", cls([3.0, -torch.inf], [torch.inf, -2.0])
