"""Normals with another power in the exponent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_event, sum_event
from flowkit.distributions._starts import known_shape, start
from flowkit.numerics.inverse_cdf import solve_quantile

LOG_2 = 0.6931471805599453


@DISTRIBUTIONS.register("generalized_normal")
class GeneralizedNormal(Distribution):
    """Independent coordinates x = loc + scale t with p(t) = beta / (2 Gamma(1 / beta)) exp(-|t|^beta).

    beta = 2 is a normal of standard deviation scale / sqrt(2), beta = 1 Laplace's law; smaller beta gives heavier tails and a
    cusp at loc, larger beta tends to the uniform law on [loc - scale, loc + scale]. With G ~ Gamma(1 / beta), |t| = G^(1 / beta):
    sampling is differentiable in all parameters, beta too. ``cdf`` is the incomplete gamma function, accurate in the left tail;
    torch has no derivative of it in beta, so ``cdf`` and ``icdf`` of a learned beta can be evaluated but not differentiated in
    it. A temperature scales the spread around loc.

    Args:
        shape: event shape, all sizes known.
        beta: power > 0; a number or a tensor that broadcasts to the shape.
        loc, scale: where training starts; scale > 0.
        learn_beta: train the powers too, by their logarithms.

    Reference: Nadarajah (2005), A generalized normal distribution, J. Applied Statistics 32.

    Example:
        >>> import torch
        >>> from flowkit.distributions import GeneralizedNormal
        >>> GeneralizedNormal((1,), beta=1.0).log_prob(torch.zeros(1)).exp().item()      # Laplace: 1 / 2
        0.5
    """

    log_beta: Tensor
    iterative_icdf = True

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        beta: float | Tensor = 2.0,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        learn_beta: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.beta, self.loc, self.scale, self.learn_beta = shape, beta, loc, scale, learn_beta
        sizes = known_shape(shape, self.who)
        self.event_shape = sizes
        self.mean = nn.Parameter(start(loc, sizes, self.who, "loc"))
        self.log_scale = nn.Parameter(start(scale, sizes, self.who, "scale", positive=True).log())
        log_beta = start(beta, sizes, self.who, "beta", positive=True).log()
        if learn_beta:
            self.log_beta = nn.Parameter(log_beta)
        else:
            self.register_buffer("log_beta", log_beta, persistent=False)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        t = (x - self.mean) * (-self.log_scale).exp()
        constant = -LOG_2 - torch.lgamma(1 + (-self.log_beta).exp()) - self.log_scale  # beta / Gamma(1/beta) = 1 / Gamma(1 + 1/beta)
        return sum_event(constant - _power(t, self.log_beta.exp()), len(self.event_shape))

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        size = (*shape, *self.mean.shape)
        inverse = (-self.log_beta).exp()
        gamma = torch._standard_gamma(inverse.expand(size), generator=generator)
        size_of_t = gamma.clamp(min=torch.finfo(gamma.dtype).tiny) ** inverse
        right = torch.rand(size, generator=generator, dtype=self.like.dtype, device=self.like.device) < 0.5
        return self.mean + temperature * self.log_scale.exp() * torch.where(right, size_of_t, -size_of_t)

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        if context is not None:
            return super().score(x, context)
        check_event(x, self.event_shape, f"{self.who}.score")
        beta, inverse_scale = self.log_beta.exp(), (-self.log_scale).exp()
        t = (x - self.mean) * inverse_scale
        return -beta * _power(t, beta - 1) * t.sign() * inverse_scale

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of each coordinate: (*B, *event) -> (*B, *event)."""
        return self._cdf((x - self.mean) * (-self.log_scale).exp())

    def _cdf(self, t: Tensor) -> Tensor:
        beta = self.log_beta.exp()
        tail = 0.5 * torch.special.gammaincc(beta.reciprocal().expand_as(t), _power(t, beta))
        return torch.where(t < 0, tail, 1 - tail)

    def icdf(self, p: Tensor) -> Tensor:
        """Quantile of each coordinate by root finding: probabilities (*B, *event) -> (*B, *event)."""
        left = p < 0.5
        t = solve_quantile(self._cdf, torch.where(left, p, 1 - p), high=0.0)
        return self.mean + self.log_scale.exp() * torch.where(left, t, -t)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GeneralizedNormal]]:
        yield "line", cls((1,), beta=4.0, loc=0.5, scale=2.0)
        yield "learned_beta", cls((2,), beta=torch.tensor([3.0, 2.0]), learn_beta=True)
        yield "laplace", cls((1,), beta=1.0)


def _power(t: Tensor, beta: Tensor) -> Tensor:
    """|t|^beta with a derivative at zero: |t| is held at the smallest float."""
    return t.abs().clamp(min=torch.finfo(t.dtype).tiny) ** beta
