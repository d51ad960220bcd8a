"""Thermodynamic integration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.sampling.free_energy import FreeEnergy, doubles, work_values


def ti(betas: Tensor | Sequence[float], derivatives: Tensor | Sequence[Tensor]) -> FreeEnergy:
    """Thermodynamic integration: F(b_K) - F(b_0) = integral of E_b[du/db] db, by the trapezoidal rule over the b that were sampled.

    The error is that of the means; the rule's own, second order in the gaps, is not in it: halve the gaps to see it.

    Args:
        betas: (K), rising, at least 2.
        derivatives: (K, N), or K tensors (n_k): du/db of independent samples at each b, in kT. Along q^(1-b) p^b it is log q - log p.

    Raises:
        ConfigError: betas that do not rise. ShapeError, NonFiniteError: derivatives that do not fit them.

    Reference: Kirkwood (1935), Statistical mechanics of fluid mixtures, J. Chem. Phys. 3.

    Example:
        >>> import torch
        >>> from flowkit.sampling import ti
        >>> betas, generator = torch.linspace(0, 1, 41, dtype=torch.float64), torch.Generator().manual_seed(0)
        >>> x = torch.randn(41, 20_000, generator=generator, dtype=torch.float64) / (1 + 3 * betas[:, None]).sqrt()  # springs from 1 to 4
        >>> result = ti(betas, 1.5 * x.square())
        >>> abs(result.delta_f - 0.6931) < 4 * result.error
        True
    """
    places = doubles(betas, "ti", "betas")
    if places.dim() != 1 or len(places) < 2 or not bool((places.diff() > 0).all()):
        raise ConfigError(f"ti: expected at least 2 betas that rise; got {places.tolist() if places.numel() < 9 else tuple(places.shape)}.")
    values = [work_values(part, "ti", f"derivatives at beta {float(b):.4g}") for b, part in zip(places, derivatives, strict=False)]
    if len(values) != len(places) or len(derivatives) != len(places):
        raise ShapeError(f"ti: expected derivatives at each of the {len(places)} betas; got {len(derivatives)}.")
    infinite = sum(int(torch.isinf(part).sum()) for part in values)
    if infinite:
        raise NonFiniteError(f"ti: {infinite} derivatives are infinite, so their mean is. Use bar or mbar, which count such samples as impossible.")
    gaps = torch.zeros(len(places) + 1, dtype=torch.float64)
    gaps[1:-1] = places.diff().cpu()
    shares = 0.5 * (gaps[1:] + gaps[:-1])
    means = torch.stack([part.mean().cpu() for part in values])
    variances = torch.stack([part.var().cpu() / len(part) for part in values])
    return FreeEnergy(float(shares @ means), math.sqrt(float(shares.square() @ variances)))
