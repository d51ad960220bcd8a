"""Normals with independent coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_context, check_event, sum_event, whole_number
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._starts import known_shape, start
from flowkit.kernels.diagonal_chain import Steps
from flowkit.numerics.normal_tails import normal_cdf


@DISTRIBUTIONS.register("diagonal_normal")
class DiagonalNormal(Distribution):
    """N(mean, diag(exp(log_scale))^2), both learned; with a context both gain a linear map of it, zero at the start.

    A temperature scales the spread around the mean.

    Args:
        shape: event shape, all sizes known.
        loc, scale: where training starts; a number or a tensor that broadcasts to the shape; scale > 0.
        context_features: size of the context's last axis, 0 for none.

    Example:
        >>> import torch
        >>> from flowkit.distributions import DiagonalNormal
        >>> round(DiagonalNormal((2,), scale=2.0).log_prob(torch.zeros(2)).item(), 4)
        -3.2242
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.loc, self.scale, self.context_features = shape, loc, scale, context_features
        sizes = known_shape(shape, self.who)
        self.event_shape = sizes
        self.mean = nn.Parameter(start(loc, sizes, self.who, "loc"))
        self.log_scale = nn.Parameter(start(scale, sizes, self.who, "scale", positive=True).log())
        self.net: nn.Linear | None = None
        if context_features:
            self.context_shape = (context_features,)
            self.net = nn.Linear(context_features, 2 * self.mean.numel(), bias=False)
            nn.init.zeros_(self.net.weight)

    def _parameters_at(self, context: Any) -> tuple[Tensor, Tensor]:
        if self.net is None:
            return self.mean, self.log_scale
        mean, log_scale = self.net(context).unflatten(-1, (2, *self.mean.shape)).unbind(-1 - self.mean.dim())
        return self.mean + mean, self.log_scale + log_scale

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        if self.net is None:
            return Steps("inverse_affine", (self.mean, self.log_scale))(x, len(self.event_shape), "normal")[1]
        mean, log_scale = self._parameters_at(context)
        return sum_event(-0.5 * ((x - mean) * (-log_scale).exp()).square() - log_scale - HALF_LOG_2PI, len(self.event_shape))

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        mean, log_scale = self._parameters_at(context)
        noise = torch.randn((*shape, *self.mean.shape), generator=generator, dtype=self.like.dtype, device=self.like.device)
        return mean + temperature * log_scale.exp() * noise

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        if self.net is not None or context is not None:
            return super().score(x, context)
        check_event(x, self.event_shape, f"{self.who}.score")
        return (self.mean - x) * (-2 * self.log_scale).exp()

    def cdf(self, x: Tensor, context: Context = None) -> Tensor:
        """Distribution function of each coordinate: (*B, *event) -> (*B, *event)."""
        check_context(context, self.context_shape, f"{self.who}.cdf")
        mean, log_scale = self._parameters_at(context)
        return normal_cdf((x - mean) * (-log_scale).exp())

    def icdf(self, p: Tensor, context: Context = None) -> Tensor:
        """Quantile of each coordinate: probabilities (*B, *event) -> (*B, *event)."""
        check_context(context, self.context_shape, f"{self.who}.icdf")
        mean, log_scale = self._parameters_at(context)
        return mean + log_scale.exp() * torch.special.ndtri(p)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiagonalNormal]]:
        yield "line", cls((1,), loc=0.5, scale=2.0)
        yield "plane", cls((2,), scale=torch.tensor([0.5, 1.5]))
        yield "conditional", cls((2,), context_features=3)
