"""Nodes and weights of quadrature rules."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Gauss's rule on [0, 1], exact for polynomials of degree 2 count - 1: nodes and weights (count,), in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
