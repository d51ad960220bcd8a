"""Links of a two-dimensional U(1) gauge field: plaquettes, the partition function and symmetries."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flowkit.targets._lattice import below

TURN = 2 * math.pi


def plaquette_sums(x: Tensor) -> Tensor:
    """P(x) = theta_0(x) + theta_1(x + 0) - theta_0(x + 1) - theta_1(x), not wrapped: (*B, 2, L, L) -> (*B, L, L)."""
    down, right = x.select(-3, 0), x.select(-3, 1)
    return down + right.roll(-1, -2) - down.roll(-1, -1) - right


def wrapped(angle: Tensor) -> Tensor:
    """The angle in [-pi, pi)."""
    turns = torch.floor((angle + math.pi) / TURN).detach()
    return angle - TURN * turns


def links_inside(x: Tensor) -> Tensor:
    """Angles in [0, 2 pi); rounding may leave 2 pi itself, which is written 0."""
    inside = x - TURN * torch.floor(x / TURN).detach()
    return torch.where((inside >= TURN) | (inside < 0), torch.zeros_like(inside), inside)


def scaled_bessel(beta: float) -> np.ndarray:
    """e^-beta I_n(beta) for n = 0, 1, .., N / 2, .., -1, the order of the fast Fourier transform.

    They are the Fourier coefficients of exp(beta (cos t - 1)), by the trapezoidal rule, which is exact to rounding on a grid that is fine
    against the width 1 / sqrt(beta).
    """
    count = 2 ** math.ceil(math.log2(64 + 32 * math.sqrt(beta)))
    scaled = np.fft.fft(np.exp(beta * (np.cos(TURN * np.arange(count) / count) - 1))).real / count
    return np.clip(scaled, 0.0, None)


def log_partition(plaquettes: int, beta: float) -> float:
    """log[ (2 pi)^(2 V) sum over n of I_n(beta)^V ]."""
    scaled = scaled_bessel(beta)
    powers = (scaled / scaled[0]) ** plaquettes
    return 2 * plaquettes * math.log(TURN) + plaquettes * (beta + math.log(scaled[0])) + math.log(math.fsum(powers.tolist()))


def changed_links(name: str, x: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """Links (*B, 2, L, L) after a random element of that symmetry; None for another name."""
    size = x.shape[-1]
    if name == "charge_conjugation":
        return links_inside(-x)
    if name == "lattice_translation":
        return x.roll([below(size, generator), below(size, generator)], [-2, -1])
    if name == "lattice_reflection":
        return reflected(x) if below(2, generator) else transposed(x)
    if name == "lattice_rotation":
        for _ in range(1 + below(3, generator)):
            x = transposed(reflected(x))
        return x
    if name == "center":
        return centre_shifted(x, generator)
    return None


def reflected(x: Tensor) -> Tensor:
    """Row r to row -r: links along the rows stay, those between rows point the other way and start at the row before."""
    down, right = x.select(-3, 0), x.select(-3, 1)
    return torch.stack([links_inside(-down.flip(-2)), right.flip(-2).roll(1, -2)], dim=-3)


def transposed(x: Tensor) -> Tensor:
    """Rows and columns, and with them the two directions, exchanged."""
    return x.flip(-3).mT


def centre_shifted(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """An angle added to the links from the last row to the first, and another to those from the last column to the first."""
    angles = TURN * torch.rand(2, generator=generator, dtype=x.dtype, device=x.device)
    shift = torch.zeros(x.shape[-3:], dtype=x.dtype, device=x.device)
    shift[0, -1] = angles[0]
    shift[1, :, -1] = angles[1]
    return links_inside(x + shift)
