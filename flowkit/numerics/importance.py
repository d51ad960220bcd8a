"""Importance weights: effective sample size, normalisers with errors, the shape of their tail, resampling."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from flowkit.core.errors import UnknownNameError, nearest

Resampling = Literal["systematic", "multinomial"]


def ess(log_weights: Tensor, dim: int = -1) -> Tensor:
    """Kish's effective sample size as a number of samples, (sum w)^2 / sum w^2, between 1 and N; divide by N for the share.

    Args:
        log_weights: log target minus log model, up to a constant; minus infinity is weight 0. Any shape.
        dim: the axis of the samples.

    Returns:
        ``log_weights`` without that axis; 0 where every weight is 0.

    Reference:
        Kish (1965), Survey sampling, section 11.7.
    """
    log_weights = log_weights.to(torch.promote_types(log_weights.dtype, torch.float32))
    top = log_weights.amax(dim, keepdim=True)
    weights = (log_weights - torch.where(torch.isneginf(top), torch.zeros_like(top), top)).exp()
    squares = weights.square().sum(dim)
    return weights.sum(dim).square() / torch.where(squares == 0, torch.ones_like(squares), squares)


def log_mean_weight(log_weights: Tensor) -> tuple[float, float]:
    """log of the mean weight of (N), and its standard error by the delta method: sqrt((N / ESS - 1) / (N - 1)).

    The estimate of log Z is consistent and low on average. Minus infinity, with error NaN, where every weight is 0; error NaN for N = 1.
    """
    log_weights = log_weights.double()
    n = len(log_weights)
    value = float(torch.logsumexp(log_weights, 0)) - math.log(n)
    if n < 2 or value == -math.inf:
        return value, math.nan
    return value, math.sqrt(max(n / float(ess(log_weights)) - 1, 0.0) / (n - 1))


def pareto_shape(log_weights: Tensor) -> float:
    """Shape k of the generalised Pareto law of the largest weights: 1/k moments of the weights are finite.

    Below 0.5 the weights have a variance and errors by the delta method hold; up to 0.7 estimates still settle at practical sizes; above, neither
    they nor their errors can be trusted. The fit is of the min(N / 5, 3 sqrt N) largest weights, with the weak prior of the paper.

    Args:
        log_weights: (N); minus infinity is weight 0.

    Returns:
        k; minus infinity where the largest weights are equal, infinity where fewer than 5 stand in the tail.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, arXiv:1507.02646; the fit: Zhang and Stephens
        (2009), A new and efficient estimation method for the generalized Pareto distribution, Technometrics 51.
    """
    n = len(log_weights)
    tail = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    top = log_weights.double().sort(descending=True).values[: tail + 1]
    if tail < 5 or bool(torch.isneginf(top[4])):
        return math.inf
    excess = ((top[:-1] - top[0]).exp() - (top[-1] - top[0]).exp()).flip(0)
    if not excess[-1] > 1e-12:
        return -math.inf
    above = excess[excess > 0]  # the others are ties, or nothing beside the largest: one weight is all there is
    shape = _generalised_pareto_shape(above) if len(above) >= 5 else math.inf
    return shape if not math.isnan(shape) else math.inf


def _generalised_pareto_shape(y: Tensor) -> float:
    """k of the density (1 + k y / s)^(-1 / k - 1) / s of sorted excesses y > 0 (M,), averaged over the profile likelihood of -k / s."""
    m = len(y)
    points = 30 + math.floor(math.sqrt(m))
    quartile = y[max(math.floor(m / 4 + 0.5) - 1, 0)]
    grid = torch.arange(1, points + 1, dtype=y.dtype, device=y.device)
    theta = 1 / y[-1] + (1 - (points / (grid - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.log1p(-theta[:, None] * y).mean(1)
    profile = m * (torch.log(-theta / shapes) - shapes - 1)
    mean = (torch.softmax(profile.nan_to_num(nan=-math.inf), 0) * theta).sum()
    shape = float(torch.log1p(-mean * y).mean())
    return (m * shape + 10 * 0.5) / (m + 10)


def resample(log_weights: Tensor, count: int, scheme: Resampling = "systematic", generator: torch.Generator | None = None) -> Tensor:
    """Indices drawn in proportion to weights: (N) -> (count) int64. Each is drawn ``count`` times its share on average, so means stay unbiased.

    "systematic" places ``count`` points with equal gaps and one random offset, so that counts differ from their mean by less than 1;
    "multinomial" draws independently.
    """
    if scheme not in get_args(Resampling):
        raise UnknownNameError(f"resample: no scheme named {scheme!r}. {nearest(scheme, get_args(Resampling))}")
    shares = torch.softmax(log_weights.double(), 0)
    if scheme == "multinomial":
        device = shares.device if generator is None else generator.device
        points = torch.rand(count, generator=generator, dtype=shares.dtype, device=device).to(shares.device).sort().values
    else:
        offset = torch.rand((), generator=generator, dtype=shares.dtype, device=shares.device if generator is None else generator.device)
        points = (torch.arange(count, dtype=shares.dtype, device=shares.device) + offset.to(shares.device)) / count
    ladder = shares.cumsum(0)
    return torch.searchsorted(ladder / ladder[-1], points, right=True).clamp(max=len(shares) - 1)
