"""What estimators of free-energy differences return, and how they read work values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import NonFiniteError, ShapeError


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """A difference of free energies F_1 - F_0 = -log Z_1 / Z_0, in units of kT.

    Attributes:
        delta_f: the estimate. error: its standard error.
        overlap: how much the two sides share, in [0, 1]: of ``bar`` the overlap of the densities, of ``fep`` and ``tfep`` the effective share of the
            samples; below about 0.03 neither estimate nor error can be trusted. None where there is no such number.
        k_hat: shape of the tail of exp(-work) (``fep``, ``tfep``): above 0.7 the same holds. work: (N) the work values used (``tfep``).
    """

    delta_f: float
    error: float
    overlap: float | None = None
    k_hat: float | None = None
    work: Tensor | None = None

    def __repr__(self) -> str:
        parts = [f"{self.delta_f:.5g} ± {self.error:.2g} kT"]
        parts += [f"{name}={value:.3g}" for name, value in (("overlap", self.overlap), ("k_hat", self.k_hat)) if value is not None]
        return f"FreeEnergy({', '.join(parts)})"


@dataclass(frozen=True, eq=False)
class FreeEnergies:
    """Free energies of K states, in units of kT.

    Attributes:
        delta_f: (K, K), F_j - F_i in row i and column j. error: (K, K), their standard errors.
        overlap: (K, K), share of the samples drawn in state j among what state i is made of; rows sum to 1.
        gap: 1 minus its second largest eigenvalue, in [0, 1]: near 0 the states fall into groups that do not know of each other.
    """

    delta_f: Tensor
    error: Tensor
    overlap: Tensor
    gap: float

    def __repr__(self) -> str:
        shown = ", ".join(f"{float(f):.4g} ± {float(e):.2g}" for f, e in zip(self.delta_f[0], self.error[0], strict=True))
        return f"FreeEnergies({shown} kT, gap={self.gap:.3g})"


def work_values(work: Any, who: str, name: str = "work") -> Tensor:
    """Work values (N) in float64, N >= 2; plus infinity is a step never taken.

    Raises:
        ShapeError: not (N). NonFiniteError: NaN or minus infinity, or nothing finite.
    """
    values = doubles(work, who, name)
    if values.dim() != 1 or len(values) < 2:
        raise ShapeError(f"{who}: expected {name} to be at least 2 values, a tensor (N,); got {tuple(values.shape)}.")
    bad = int((torch.isnan(values) | torch.isneginf(values)).sum())
    if bad:
        raise NonFiniteError(f"{who}: {bad} of {len(values)} values of {name} are NaN or minus infinity. Look at the energies there.")
    if not bool(torch.isfinite(values).any()):
        raise NonFiniteError(f"{who}: all values of {name} are infinite: the states share no configuration.")
    return values


def doubles(values: Any, who: str, name: str) -> Tensor:
    """A tensor, an array or (nested) lists of numbers as a constant in float64, lists without a detour by float32."""
    try:
        return torch.as_tensor(values, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{who}: expected {name} to be a tensor of numbers; got {type(values).__name__} ({error}).") from None
