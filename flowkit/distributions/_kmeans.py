"""k-means: where mixtures start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.distributions._choice import choose


def kmeans(x: Tensor, clusters: int, *, generator: torch.Generator | None = None, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from greedy k-means++ seeds, in float64; a cluster left empty moves to the worst served row.

    Args:
        x: rows (N, D), N >= clusters.
        clusters: number K of centres.
        generator: source of the seeds, on the device of ``x``.
        rounds: at most this many Lloyd rounds.

    Returns:
        centres (K, D) float64 and labels (N) int64.

    Reference:
        Arthur and Vassilvitskii 2007, k-means++: the advantages of careful seeding, SODA.
    """
    x = x.double()
    centres = _seeds(x, clusters, generator)
    labels = _squared_distances(x, centres).argmin(1)
    for _ in range(rounds):
        centres = _means(x, labels, centres)
        nearest = _squared_distances(x, centres).argmin(1)
        if torch.equal(nearest, labels):
            break
        labels = nearest
    return centres, labels


def _seeds(x: Tensor, clusters: int, generator: torch.Generator | None) -> Tensor:
    """Each next seed is the best of a few rows drawn in proportion to their squared distance from the seeds so far."""
    tries = 2 + int(math.log(clusters))
    first = choose(torch.ones_like(x[:, 0]), (1,), generator)
    seeds, distance = [x[first[0]]], _squared_distances(x, x[first])[:, 0]
    for _ in range(clusters - 1):
        candidates = choose(distance, (tries,), generator)
        closer = torch.minimum(distance[:, None], _squared_distances(x, x[candidates]))
        best = closer.sum(0).argmin()
        seeds.append(x[candidates[best]])
        distance = closer[:, best]
    return torch.stack(seeds)


def _means(x: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    counts = torch.bincount(labels, minlength=len(centres))
    sums = torch.zeros_like(centres).index_add_(0, labels, x)
    empty = counts == 0
    if bool(empty.any()):
        worst = (x - centres[labels]).square().sum(1).topk(int(empty.sum())).indices
        return torch.where(empty[:, None], torch.zeros_like(centres).index_put((empty.nonzero()[:, 0],), x[worst]), sums / counts.clamp(min=1)[:, None])
    return sums / counts[:, None]


def _squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """(N, D), (K, D) -> (N, K)."""
    return torch.cdist(x, centres).square()
