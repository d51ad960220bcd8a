"""Normals with any covariance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_event, positive, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._cholesky import log_volume, lower_factor, raw_factor, whiten
from flowkit.distributions._starts import start


@DISTRIBUTIONS.register("full_normal")
class FullNormal(Distribution):
    """N(mean, L L^T), the mean and the Cholesky factor L learned; L's diagonal is the exponential of ``factor``'s.

    A temperature scales the spread around the mean. Cost O(D^2) an event, both ways.

    Args:
        features: number D of coordinates.
        loc: mean where training starts, a number or (D,).
        covariance: covariance where training starts (D, D), positive definite; default the identity.

    Example:
        >>> import torch
        >>> from flowkit.distributions import FullNormal
        >>> round(FullNormal(2, covariance=4 * torch.eye(2)).log_prob(torch.zeros(2)).item(), 4)
        -3.2242
    """

    def __init__(self, features: int, *, loc: float | Tensor = 0.0, covariance: Tensor | None = None) -> None:
        super().__init__()
        features = positive(features, self.who, "features")
        self.features, self.loc, self.covariance = features, loc, covariance
        self.event_shape = (features,)
        self.mean = nn.Parameter(start(loc, (features,), self.who, "loc"))
        self.factor = nn.Parameter(self._start_factor(covariance))

    def _start_factor(self, covariance: Tensor | None) -> Tensor:
        if covariance is None:
            return torch.zeros(self.features, self.features)
        square = start(covariance, (self.features, self.features), self.who, "covariance")
        lower, failed = torch.linalg.cholesky_ex(square)
        if int(failed) or not torch.allclose(square, square.mT):
            raise ConfigError(f"{self.who}: expected a symmetric positive definite covariance; got one that is not. Add a multiple of the identity.")
        return raw_factor(lower)

    def cholesky(self) -> Tensor:
        """The lower triangular factor L of the covariance, (D, D)."""
        return lower_factor(self.factor)

    def _white(self, x: Tensor) -> Tensor:
        """L^-1 (x - mean) of all events as rows: (*B, D) -> (N, D)."""
        return whiten(self.factor, (x - self.mean).reshape(-1, self.features))

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        log_prob = sum_event(-0.5 * self._white(x).square() - HALF_LOG_2PI, 1) - log_volume(self.factor)
        return log_prob.reshape(x.shape[:-1])

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        noise = torch.randn((*shape, self.features), generator=generator, dtype=self.like.dtype, device=self.like.device)
        return self.mean + temperature * noise @ self.cholesky().mT

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        if context is not None:
            return super().score(x, context)
        check_event(x, self.event_shape, f"{self.who}.score")
        white = self._white(x)
        return -torch.linalg.solve_triangular(self.cholesky().to(white), white, upper=False, left=False).reshape(x.shape)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, FullNormal]]:
        yield "line", cls(1)
        yield "plane", cls(2, loc=0.5, covariance=torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
