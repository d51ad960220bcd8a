"""Wasserstein distances between two sets of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import positive
from flowkit.evaluation._inputs import pair_of
from flowkit.numerics.estimate import Estimate, mean_of


def wasserstein(x: Tensor, y: Tensor, *, order: float = 2.0) -> float:
    """Wasserstein distance between two empirical measures of one size, exact by assignment.

        W_p = (min over permutations s of (1/N) sum_n |x_n - y_s(n)|^p)^(1/p)

    O(N^3) time and O(N^2) memory: meant for N up to a few thousand. Between two draws of one distribution it is above 0.

    Args:
        x, y: (N, *event) each; order: p >= 1.
    """
    from scipy.optimize import linear_sum_assignment

    _check_order(order, "wasserstein")
    rows, others = pair_of(x, y, "wasserstein")
    if len(rows) != len(others):
        raise ShapeError(f"wasserstein: expected as many x as y; got {len(rows)} and {len(others)}. Take {min(len(rows), len(others))} of each.")
    cost = torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist").double().pow(order).cpu().numpy()
    return float(cost[linear_sum_assignment(cost)].mean() ** (1 / order))


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, projections: int = 256, order: float = 2.0, generator: torch.Generator | None = None
) -> Estimate:
    """Wasserstein distance of one-dimensional projections, averaged over directions.

        SW_p = (E_u W_p^p(<u, x>, <u, y>))^(1/p),   u uniform on the unit sphere

    Each one-dimensional distance is exact, also for sets of different sizes.

    Args:
        x, y: (N, *event), (M, *event).
        projections: directions drawn (one suffices in one dimension, and is used).
        order: p >= 1.
        generator: for the directions.

    Returns:
        The distance, with the Monte Carlo standard error of the directions alone.

    Reference:
        Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters of measures, J. Math. Imaging Vis. 51.
    """
    _check_order(order, "sliced_wasserstein")
    projections = positive(projections, "sliced_wasserstein", "projections")
    rows, others = pair_of(x, y, "sliced_wasserstein")
    features = rows.shape[1]
    count = projections if features > 1 else 1
    device = rows.device if generator is None else generator.device
    directions = torch.randn((features, count), generator=generator, dtype=rows.dtype, device=device).to(rows.device)
    directions = directions / directions.norm(dim=0)
    powers = mean_of(line_distance((rows @ directions).double(), (others @ directions).double(), order))
    distance = max(powers.mean, 0.0) ** (1 / order)
    error = 0.0 if features == 1 else powers.standard_error * distance / (order * powers.mean) if powers.mean > 0 else powers.standard_error
    return Estimate(distance, error)


def line_distance(x: Tensor, y: Tensor, order: float) -> Tensor:
    """W_p^p of each column: (N, K), (M, K) -> (K,), the integral of |F_x^-1 - F_y^-1|^p over its constant pieces."""
    n, m = len(x), len(y)
    x, y = x.sort(0).values, y.sort(0).values
    # in units of 1 / (n m) every break point is an integer, so no piece is lost to rounding
    breaks = torch.cat([torch.arange(n + 1, device=x.device) * m, torch.arange(m + 1, device=x.device) * n]).unique()
    left, widths = breaks[:-1], breaks.diff().to(x.dtype) / (n * m)
    return (widths[:, None] * (x[left // m] - y[left // n]).abs().pow(order)).sum(0)


def _check_order(order: float, who: str) -> None:
    if not order >= 1:
        raise ConfigError(f"{who}: expected order >= 1; got {order}.")
