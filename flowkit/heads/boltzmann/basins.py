"""Free energies of conformations from weighted structures, and the distance between two Ramachandran maps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, DataError, ShapeError
from flowkit.core.shapes import positive


class FreeEnergyDifference(NamedTuple):
    """F(inside) - F(outside) in kT, with its standard error, and the share of the mass inside."""

    value: float
    error: float
    share: float


def free_energy_difference(inside: Tensor, weights: Tensor | None = None, *, blocks: int | None = None) -> FreeEnergyDifference:
    """F(A) - F(not A) = -log(P(A) / P(not A)) in kT, from samples, which may have weights.

    P is estimated by sum w 1_A / sum w. The error is by the delta method, error(P) / (P (1 - P)); error(P)^2 = sum w^2 (1_A - P)^2 / (sum w)^2 for
    independent samples, and the variance of block means over their number for a trajectory, whose frames are not independent.

    Args:
        inside: (N,) booleans.
        weights: (N,), not negative; default equal.
        blocks: consecutive parts of a trajectory to take the error from; None for independent samples.

    Raises:
        DataError: all the mass is on one side.
    """
    who = "free_energy_difference"
    if inside.dtype != torch.bool or inside.dim() != 1:
        raise ShapeError(f"{who}: expected booleans (N,); got {inside.dtype} of shape {tuple(inside.shape)}.")
    w = torch.ones(len(inside), dtype=torch.float64) if weights is None else weights.detach().double().cpu()
    if w.shape != inside.shape or bool((w < 0).any()) or not float(w.sum()) > 0:
        raise ShapeError(f"{who}: expected {len(inside)} weights, not negative; got shape {tuple(w.shape)}.")
    there = inside.cpu().double()
    share = float((w * there).sum() / w.sum())
    if not 0 < share < 1:
        raise DataError(f"{who}: all {len(inside)} samples with weight lie on one side. Draw more samples, or use ones that visit both.")
    deviations = w * (there - share)
    if blocks is None:
        variance = float(deviations.square().sum() / w.sum() ** 2)
    else:
        count = positive(blocks, who, "blocks")
        if not 2 <= count <= len(inside):
            raise ConfigError(f"{who}: expected 2 to {len(inside)} blocks; got {count}.")
        sums = torch.stack([part.sum() for part in torch.tensor_split(deviations, count)])
        variance = float(sums.square().sum() / w.sum() ** 2) * count / (count - 1)
    return FreeEnergyDifference(-math.log(share / (1 - share)), math.sqrt(variance) / (share * (1 - share)), share)


def ramachandran_divergence(reference: Tensor, angles: Tensor, weights: Tensor | None = None, *, bins: int = 100) -> float:
    """KL(reference || model) of the histograms of two dihedrals, in nats.

    Cells that hold reference get one sample's share of the model, 1 / N, at least, so that the number stays finite. Finite samples alone give a KL of
    about occupied cells / (2 N): compare with that of two halves of the reference.

    Args:
        reference: (M, 2) radians; angles: (N, 2); weights: (N,) of the model's.
        bins: along each axis; 100 is the number in use.
    """
    p = _histogram(reference, None, bins)
    q = _histogram(angles, weights, bins)
    seen = p > 0
    q = torch.where(seen, q.clamp(min=1 / len(angles)), q)
    q = q / q.sum()
    return float((p[seen] * (p[seen] / q[seen]).log()).sum())


def _histogram(angles: Tensor, weights: Tensor | None, bins: int) -> Tensor:
    if angles.dim() != 2 or angles.shape[1] != 2:
        raise ShapeError(f"ramachandran_divergence: expected angles (N, 2); got {tuple(angles.shape)}.")
    turns = torch.remainder(angles.detach().double().cpu() / (2 * math.pi) + 0.5, 1.0)
    cell = (turns * bins).long().clamp(max=bins - 1)
    w = torch.ones(len(angles), dtype=torch.float64) if weights is None else weights.detach().double().cpu()
    counts = torch.zeros(bins * bins, dtype=torch.float64).index_add(0, cell[:, 0] * bins + cell[:, 1], w)
    return counts / counts.sum()
