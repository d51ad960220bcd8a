"""Convergence and precision of Markov chains, from several chains of one length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.errors import ShapeError


def r_hat(x: Tensor) -> Tensor:
    """Rank-normalised split R-hat: near 1 where the chains agree; above 1.01 they have not mixed.

    The larger of that of the values and that of their distances from the median, so that chains of one mean and different widths are found too.

    Args:
        x: (T, C, *shape), T steps (4 at least) of C chains.

    Returns:
        (*shape); NaN where nothing varies.

    Reference: Vehtari et al. (2021), Rank-normalization, folding, and localization: an improved R-hat, arXiv:1903.08008.
    """
    x = _halves(x)
    folded = (x - x.flatten(0, 1).median(0).values).abs()
    return torch.maximum(_split(_normal_scores(x)), _split(_normal_scores(folded)))


def effective_sample_size(x: Tensor) -> Tensor:
    """How many independent samples would estimate the mean of T C correlated ones as well.

        T C / (1 + 2 sum_t rho_t),   rho_t from all chains together, the sum cut where pairs rho_2k + rho_2k+1 stop being positive and falling

    Args:
        x: (T, C, *shape), T >= 4.

    Returns:
        (*shape); NaN where nothing varies.

    Reference: Geyer (1992), Practical Markov chain Monte Carlo, Stat. Sci. 7; Vehtari et al. (2021), arXiv:1903.08008.
    """
    x = _halves(x)
    n, m = x.shape[:2]
    centred = x - x.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)
    autocovariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1) / n
    within = autocovariance[0] * n / (n - 1)
    total = autocovariance[0] + (x.mean(0).var(0) if m > 1 else 0.0)
    rho = 1 - (within - autocovariance * n / (n - 1)) / total
    rho[0] = 1.0
    pairs = rho[: 2 * (n // 2)].unflatten(0, (n // 2, 2)).sum(1)
    pairs = pairs.cummin(0).values * (pairs > 0).cumprod(0)
    time = (2 * pairs.sum(0) - 1).clamp(min=1 / math.log10(n * m))
    return torch.where(total > 0, n * m / time, torch.full_like(time, torch.nan))


def _halves(x: Tensor) -> Tensor:
    """Each chain as two, in float64: (T, C, ...) -> (T // 2, 2 C, ...)."""
    if x.dim() < 2 or len(x) < 4:
        raise ShapeError(f"chains: expected (T, C, ...) with at least 4 steps; got {tuple(x.shape)}.")
    half = len(x) // 2
    return torch.cat([x[:half], x[-half:]], 1).double()


def _normal_scores(x: Tensor) -> Tensor:
    """Normal quantiles of the ranks among all draws; ties share their mean rank."""
    flat = x.reshape(x.shape[0] * x.shape[1], -1)
    ranks = torch.empty_like(flat)
    for column in range(flat.shape[1]):
        _, inverse, counts = torch.unique(flat[:, column], return_inverse=True, return_counts=True)
        ranks[:, column] = (counts.cumsum(0) - (counts - 1) / 2)[inverse]
    return torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).reshape(x.shape)


def _split(x: Tensor) -> Tensor:
    n = len(x)
    within = x.var(0).mean(0)
    between = x.mean(0).var(0)
    return ((n - 1) / n + between / within).sqrt()
