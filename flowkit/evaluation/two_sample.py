"""Kernel distances between two sets of samples, tested by permutation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive
from flowkit.evaluation._inputs import pair_of
from flowkit.numerics.estimate import Estimate


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    bandwidth: float | None = None,
    permutations: int = 200,
    max_points: int = 4000,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Squared maximum mean discrepancy with a Gaussian kernel, unbiased (so it can be below 0).

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(a, b) = exp(-|a - b|^2 / (2 h^2))

    Costs O(N^2) memory; beyond ``max_points`` a random subset of each set is used.

    Args:
        x, y: (N, *event), (M, *event).
        bandwidth: h; by default the median distance between distinct points of the two sets together.
        permutations: random relabellings that give the standard error (the statistic's spread under x ~ y) and p-value.
        max_points: samples used of each set.
        generator: for the subset and the permutations.

    Returns:
        The statistic, its standard error under the null hypothesis of equal distributions, and the p-value.

    Reference:
        Gretton et al. (2012), A kernel two-sample test, JMLR 13, lemma 6.
    """
    pooled = _pool(x, y, max_points, generator, "mmd")
    squared = pooled.distances.square()
    if bandwidth is None:
        above = torch.triu_indices(len(squared), len(squared), 1, device=squared.device)
        bandwidth = float(squared[above[0], above[1]].median().sqrt())
    if not bandwidth > 0:
        raise ConfigError(f"mmd: expected a bandwidth above 0; got {bandwidth}. Most points coincide if it is the default; pass bandwidth=.")
    return _permutation_test(torch.exp(-squared / (2 * bandwidth**2)), pooled.first, permutations, generator)


def energy_distance(
    x: Tensor, y: Tensor, *, permutations: int = 200, max_points: int = 4000, generator: torch.Generator | None = None
) -> Estimate:
    """Energy distance, unbiased (so it can be below 0): 2 E|x - y| - E|x - x'| - E|y - y'|.

    Args and returns as for ``mmd``; it is the squared discrepancy of the kernel -|a - b| and has no bandwidth.

    Reference:
        Szekely and Rizzo (2013), Energy statistics: a class of statistics based on distances, J. Stat. Plan. Inference 143.
    """
    pooled = _pool(x, y, max_points, generator, "energy_distance")
    return _permutation_test(-pooled.distances, pooled.first, permutations, generator)


class _Pool(NamedTuple):
    """Distances between all points (N + M, N + M), the ``first`` of which are x."""

    distances: Tensor
    first: int


def _pool(x: Tensor, y: Tensor, max_points: int, generator: torch.Generator | None, who: str) -> _Pool:
    max_points = positive(max_points, who, "max_points")
    rows, others = (_subset(part, max_points, generator) for part in pair_of(x, y, who))
    both = torch.cat([rows, others])
    return _Pool(torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist"), len(rows))


def _subset(rows: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    if len(rows) <= count:
        return rows
    device = rows.device if generator is None else generator.device
    return rows[torch.randperm(len(rows), generator=generator, device=device)[:count].to(rows.device)]


def _permutation_test(kernel: Tensor, first: int, permutations: int, generator: torch.Generator | None) -> Estimate:
    """The unbiased statistic of a kernel matrix, for the labels given and for random ones."""
    permutations = positive(permutations, "two-sample test", "permutations")
    total = len(kernel)
    kernel = kernel.double().fill_diagonal_(0)
    device = kernel.device if generator is None else generator.device
    chosen = torch.rand((permutations, total), generator=generator, device=device).argsort(-1)[:, :first].to(kernel.device)
    labels = kernel.new_zeros(permutations + 1, total)
    labels[0, :first] = 1
    labels[1:].scatter_(1, chosen, 1.0)
    within = labels @ kernel
    ones = (within * labels).sum(-1)
    cross = (within * (1 - labels)).sum(-1)
    others = kernel.sum() - ones - 2 * cross
    second = total - first
    statistic = ones / (first * (first - 1)) + others / (second * (second - 1)) - 2 * cross / (first * second)
    null = statistic[1:]
    p_value = (1 + int((null >= statistic[0]).sum())) / (1 + permutations)
    return Estimate(float(statistic[0]), float(null.std(correction=0)), p_value)
