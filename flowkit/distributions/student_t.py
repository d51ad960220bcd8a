"""Student's t: normals with heavy tails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_event, sum_event
from flowkit.distributions._starts import known_shape, start
from flowkit.distributions._student_t import HALF_LOG_PI, tail
from flowkit.numerics.inverse_cdf import solve_quantile

LARGE = 20.0  # from here the series of _log_gamma_ratio is exact to float64


@DISTRIBUTIONS.register("student_t")
class StudentT(Distribution):
    """Independent Student-t coordinates, x = loc + scale t with t ~ t_df.

    p(t) = Gamma((df+1)/2) / (sqrt(df pi) Gamma(df/2)) (1 + t^2/df)^(-(df+1)/2). Sampling is N(0, 1) / sqrt(chi2_df / df),
    differentiable in all parameters, df too. A temperature scales the spread around the location.

    Args:
        shape: event shape, all sizes known.
        df: degrees of freedom > 0; a number or a tensor that broadcasts to the shape.
        loc, scale: where training starts; scale > 0.
        learn_df: train the degrees of freedom too, by their logarithm.

    Example:
        >>> import torch
        >>> from flowkit.distributions import StudentT
        >>> round(StudentT((1,), df=1.0).log_prob(torch.zeros(1)).exp().item(), 4)      # Cauchy: 1 / pi
        0.3183
    """

    log_df: Tensor
    iterative_icdf = True

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        df: float | Tensor = 5.0,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        learn_df: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.df, self.loc, self.scale, self.learn_df = shape, df, loc, scale, learn_df
        sizes = known_shape(shape, self.who)
        self.event_shape = sizes
        self.mean = nn.Parameter(start(loc, sizes, self.who, "loc"))
        self.log_scale = nn.Parameter(start(scale, sizes, self.who, "scale", positive=True).log())
        log_df = start(df, sizes, self.who, "df", positive=True).log()
        if learn_df:
            self.log_df = nn.Parameter(log_df)
        else:
            self.register_buffer("log_df", log_df, persistent=False)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        df = self.log_df.exp()
        t = (x - self.mean) * (-self.log_scale).exp()
        constant = _log_gamma_ratio(0.5 * df) - 0.5 * self.log_df - HALF_LOG_PI - self.log_scale
        return sum_event(constant - 0.5 * (df + 1) * torch.log1p(t.square() / df), len(self.event_shape))

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        size = (*shape, *self.mean.shape)
        noise = torch.randn(size, generator=generator, dtype=self.like.dtype, device=self.like.device)
        half_df = 0.5 * self.log_df.exp()
        half_chi2 = torch._standard_gamma(half_df.expand(size), generator=generator)
        t = noise * (half_df / half_chi2.clamp(min=torch.finfo(noise.dtype).tiny)).sqrt()
        return self.mean + temperature * self.log_scale.exp() * t

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        if context is not None:
            return super().score(x, context)
        check_event(x, self.event_shape, f"{self.who}.score")
        df, inverse_scale = self.log_df.exp(), (-self.log_scale).exp()
        t = (x - self.mean) * inverse_scale
        return -(df + 1) * t / (df + t.square()) * inverse_scale

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of each coordinate by quadrature: (*B, *event) -> (*B, *event). Left tails keep their digits."""
        return self._cdf((x - self.mean) * (-self.log_scale).exp())

    def _cdf(self, t: Tensor) -> Tensor:
        df = self.log_df.exp()
        left = t < 0
        right_tail = tail(torch.where(left, -t, t), df, _log_gamma_ratio(0.5 * df))
        return torch.where(left, right_tail, 1 - right_tail)

    def icdf(self, p: Tensor) -> Tensor:
        """Quantile of each coordinate by root finding: probabilities (*B, *event) -> (*B, *event)."""
        left = p < 0.5
        t = solve_quantile(self._cdf, torch.where(left, p, 1 - p), high=0.0)
        return self.mean + self.log_scale.exp() * torch.where(left, t, -t)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, StudentT]]:
        yield "line", cls((1,), df=5.0, scale=0.5)
        yield "learned_df", cls((2,), df=8.0, learn_df=True)


def _log_gamma_ratio(a: Tensor) -> Tensor:
    """log Gamma(a + 1/2) - log Gamma(a) without cancellation.

    Reference: Tricomi and Erdelyi 1951, The asymptotic expansion of a ratio of gamma functions, Pacific J. Math. 1.
    """
    small, b = a.clamp(max=LARGE), a.clamp(min=LARGE).reciprocal()
    square = b.square()
    tail = b * (-1 / 8 + square * (1 / 192 + square * (-1 / 640 + square * 17 / 14336)))
    return torch.where(a < LARGE, torch.lgamma(small + 0.5) - torch.lgamma(small), tail - 0.5 * b.log())
