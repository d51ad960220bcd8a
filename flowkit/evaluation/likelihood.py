"""Held-out likelihood, in nats and in bits per dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.evaluating import evaluating
from flowkit.core.shapes import Context, positive
from flowkit.evaluation._inputs import log_prob_of
from flowkit.numerics.estimate import Estimate, mean_of


def nll(
    flow: Distribution, x: Tensor, context: Context = None, *, batch_size: int = 4096, generator: torch.Generator | None = None
) -> Estimate:
    """Negative log-likelihood of held-out data, in nats per event: -(1/N) sum_n log p(x_n).

    Infinite as soon as one event lies outside the support.

    Args:
        flow: any distribution.
        x: (N, *event); context: (N, *context) or one that broadcasts.
        batch_size: events evaluated at a time.
        generator: for densities that are estimated.

    Returns:
        The mean, with the standard error of the mean over events.
    """
    batch_size = positive(batch_size, "nll", "batch_size")
    with evaluating(flow):
        return mean_of(-log_prob_of(flow, x, context, batch_size, generator, "nll").reshape(-1))


def bits_per_dim(log_prob: Tensor, dims: int, levels: int = 256) -> Tensor:
    """Bits per dimension of discrete data that were dequantised to [0, 1).

        x = (k + u) / L,  u ~ U[0, 1):   P(k) = integral of p over a cell of volume L^-D >= exp(E_u log p(x)) L^-D,
        bits/dim = -(log p(x) - D log L) / (D log 2) = -log p(x) / (D log 2) + log2 L

    Averaged over u it is an upper bound on -log2 P(k) / D; the uniform density on [0, 1)^D scores log2 L.

    Args:
        log_prob: (*B), nats, of the continuous x in [0, 1)^D. For data kept at the scale of k, pass levels=1.
        dims: D, numbers in one event.
        levels: L, values that each number can take.

    Returns:
        (*B), bits.

    Reference:
        Theis et al. (2016), A note on the evaluation of generative models, arXiv:1511.01844, section 3.1.
    """
    dims = positive(dims, "bits_per_dim", "dims")
    if not levels >= 1:
        raise ConfigError(f"bits_per_dim: expected levels >= 1; got {levels}.")
    return -log_prob / (dims * math.log(2)) + math.log2(levels)
