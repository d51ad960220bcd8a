"""Distances between sets of configurations: of their energies, torsions and shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import positive, positive_number
from flowkit.evaluation._inputs import pair_of
from flowkit.evaluation.transport import line_distance
from flowkit.numerics.alignment import Alignment, squared_distances
from flowkit.numerics.assignment import assign

MOST = 10_000  # samples of each set that an exact plan is made for
_ALIGNMENTS: tuple[Alignment, ...] = ("none", "rotation", "permutation", "both")


def energy_wasserstein(energies: Tensor, reference: Tensor) -> float:
    """2-Wasserstein distance between two sets of energies (E-W2), exact for sets of any sizes.

        sqrt(integral over u in (0, 1) of (F^-1(u) - G^-1(u))^2)

    Args:
        energies, reference: (N,), (M,), in one unit, which is that of the distance.

    Reference: Tan et al. (2025), Scalable equilibrium sampling with sequential Boltzmann generators, arXiv:2502.18462.

    Example:
        >>> import torch
        >>> from flowkit.evaluation import energy_wasserstein
        >>> energies = torch.linspace(-1, 1, 100)
        >>> round(energy_wasserstein(energies, energies + 0.5), 4)
        0.5
    """
    first, second = pair_of(energies, reference, "energy_wasserstein")
    if energies.dim() != 1:
        raise ShapeError(f"energy_wasserstein: expected one energy a sample, (N,); got {tuple(energies.shape)}.")
    return math.sqrt(float(line_distance(first.double(), second.double(), 2.0)[0]))


def torus_wasserstein(angles: Tensor, reference: Tensor) -> float:
    """2-Wasserstein distance between two sets of angles in radians (T-W2), each difference the shorter way round; exact by assignment.

        d^2 = sum over angles of min over k of (a - b + 2 pi k)^2

    O(N^3) time and 8 N^2 bytes (0.8 GB at the cap of 10,000 each).

    Args:
        angles, reference: (N, *angles) each, such as (phi, psi) of every residue.

    Raises:
        ConfigError: more than 10,000 of each. ShapeError: sets of different sizes.

    Reference: Tan et al. (2025), arXiv:2502.18462.

    Example:
        >>> import math, torch
        >>> from flowkit.evaluation import torus_wasserstein
        >>> round(torus_wasserstein(torch.full((2, 1), math.pi - 0.1), torch.full((2, 1), 0.1 - math.pi)), 4)
        0.2
    """
    first, second = _of_one_size(angles, reference, "torus_wasserstein")
    cost = torch.zeros(len(first), len(second), dtype=torch.float64, device=first.device)
    for a, b in zip(first.double().unbind(1), second.double().unbind(1), strict=True):
        cost += _wrapped(a[:, None] - b).square()
    return _least(cost)


def geometric_wasserstein(x: Tensor, y: Tensor, *, align: Alignment = "none", rounds: int = 1) -> float:
    """2-Wasserstein distance between two sets of configurations, with or without alignment of each pair; say which when you report it.

        sqrt((1/N) min over pairings of sum of |x' - y|^2),   x' as it is ("none"), or moved towards y

    Both are centred unless ``align`` is "none". With "permutation" and "both" particles count as alike; "both" alternates between the best order and the
    best rotation, and so is an upper bound. That costs about 10 us for each of the N^2 pairs of 13 particles.

    Args:
        x, y: (N, *event) each; (N, particles, d) to align. align: "none", "rotation", "permutation" or "both". rounds: of the alternation.

    Raises:
        ConfigError: more than 10,000 of each, or an alignment that is not known. ShapeError: sets of different sizes, or no particles to align.

    Reference: Klein, Kraemer and Noe (2023), Equivariant flow matching, arXiv:2306.15030, section 4 (alignment); Akhound-Sadegh et al. (2024),
        Iterated denoising energy matching, arXiv:2402.06121 (without).
    """
    first, second = _of_one_size(x, y, "geometric_wasserstein")
    if align not in _ALIGNMENTS:
        raise ConfigError(f"geometric_wasserstein: expected align to be one of {', '.join(_ALIGNMENTS)}; got {align!r}.")
    if align == "none":
        return _least(torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist").double().square())
    if x.dim() != 3:
        raise ShapeError(f"geometric_wasserstein: expected configurations (N, particles, d) to align; got {tuple(x.shape)}.")
    clouds = [part.reshape(x.shape).double() for part in (first, second)]
    centred = [part - part.mean(1, keepdim=True) for part in clouds]
    return _least(squared_distances(centred[0], centred[1], align, positive(rounds, "geometric_wasserstein", "rounds")))


def ramachandran_kl(reference: Tensor, angles: Tensor, *, bins: int = 100, pseudo_count: float = 1e-3) -> float:
    """Kullback-Leibler divergence KL(reference | model) of two sets of torsion pairs, by histograms on [-pi, pi)^2.

    Only bins that the reference visits count. ``pseudo_count`` is added to every count of the model, without which one bin it misses makes the
    divergence infinite. With few samples it is far above 0 for equal laws too: compare with two halves of the reference.

    Args:
        reference, angles: (N, 2), (M, 2), phi and psi in radians, any branch.
        bins: along each angle. pseudo_count: > 0.

    Returns:
        nats.

    Reference: Midgley et al. (2023), Flow annealed importance sampling bootstrap, arXiv:2208.01893.
    """
    rows, others = pair_of(reference, angles, "ramachandran_kl")
    if reference.shape[1:] != (2,):
        raise ShapeError(f"ramachandran_kl: expected pairs of angles (N, 2); got {tuple(reference.shape)}.")
    bins, pseudo_count = positive(bins, "ramachandran_kl", "bins"), positive_number(pseudo_count, "ramachandran_kl", "pseudo_count")
    counts, model = _histogram(rows, bins), _histogram(others, bins) + pseudo_count
    p, q = counts / counts.sum(), model / model.sum()
    return float(torch.special.xlogy(p, p).sum() - (p * q.log()).sum())


def _histogram(angles: Tensor, bins: int) -> Tensor:
    """Counts (bins^2,) of angle pairs (N, 2)."""
    share = (angles.double() / (2 * math.pi) + 0.5).remainder(1.0)
    cells = (share * bins).long().clamp(max=bins - 1)
    return torch.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins * bins).double()


def _wrapped(difference: Tensor) -> Tensor:
    return torch.remainder(difference + math.pi, 2 * math.pi) - math.pi


def _of_one_size(x: Tensor, y: Tensor, who: str) -> tuple[Tensor, Tensor]:
    rows, others = pair_of(x, y, who)
    if len(rows) != len(others):
        raise ShapeError(f"{who}: expected as many of each; got {len(rows)} and {len(others)}. Take {min(len(rows), len(others))} of each.")
    if len(rows) > MOST:
        raise ConfigError(f"{who}: expected at most {MOST} of each, for an exact plan is of order N^3; got {len(rows)}. Take a random subset.")
    return rows, others


def _least(cost: Tensor) -> float:
    """Root mean cost of the best assignment of (N, N) squared distances."""
    return math.sqrt(float(cost.gather(1, assign(cost)[:, None]).mean()))
