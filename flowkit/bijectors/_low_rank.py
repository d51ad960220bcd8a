"""The identity plus a matrix of low rank, written so that it is invertible at every parameter value.

1. Any I + U V^T with linearly independent columns of U can be written with orthonormal ones, U = Q, Q^T Q = I_k: U = Q R gives
   V' = V R^T. Q's columns are the first k basis vectors after k reflections, so no orthogonalisation is needed.
2. Split V = Q (T - I)^T + N with Q^T N = 0. In coordinates q = Q^T z and z' = z - Q q the map is
   q -> T q + N^T z',  z' -> z'.
3. By the determinant lemma det(I + Q V^T) = det(I_k + V^T Q) = det T. T = L U with unit lower L and an exponential on U's diagonal
   has a positive one, whatever the parameters; the inverse is q -> T^-1 (q - N^T z'), z' -> z', which is Woodbury's formula.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flowkit.bijectors._matrices import identity_like, lower_upper, reflect, solve_lower_upper, times
from flowkit.core.errors import ConfigError

Parts = Mapping[str, Tensor]


def low_rank_start(features: int, rank: int, who: str) -> dict[str, Tensor]:
    """Parameters at which the update is nothing; Q points anywhere."""
    if rank > features:
        raise ConfigError(f"{who}: expected rank <= features={features}; got {rank}.")
    start = {"log_pivots": torch.zeros(rank)}
    if rank > 1:
        start["factors"] = torch.zeros(rank, rank)
    if features > 1:
        start["directions"] = torch.randn(rank, features)
    if rank < features:
        start["across"] = torch.zeros(rank, features)  # N^T before its part along Q is taken out
    return start


def low_rank_times(parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
    """(I + Q V^T) value and the logarithm of the determinant."""
    basis, along, rest = _split(parts, value)
    lower, upper = lower_upper(parts.get("factors"), parts["log_pivots"].exp())
    moved = times(lower, times(upper, along)) + _across(parts, along, rest)
    return rest + times(basis.mT, moved), parts["log_pivots"].sum(-1)


def low_rank_solve(parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
    """(I + Q V^T)^-1 value and the logarithm of the determinant of I + Q V^T."""
    basis, along, rest = _split(parts, value)
    lower, upper = lower_upper(parts.get("factors"), parts["log_pivots"].exp())
    moved = solve_lower_upper(lower, upper, along - _across(parts, along, rest))
    return rest + times(basis.mT, moved), parts["log_pivots"].sum(-1)


def _split(parts: Parts, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q^T (*B, k, D), the coordinates in its span (*B, k) and what is left of the value (*B, D)."""
    pivots = parts["log_pivots"]
    basis = identity_like(pivots, pivots.shape[-1], value.shape[-1])
    if "directions" in parts:
        basis = reflect(basis, parts["directions"].unsqueeze(-3)).reshape(*parts["directions"].shape)
    along = times(basis, value)
    return basis, along, value - times(basis.mT, along)


def _across(parts: Parts, along: Tensor, rest: Tensor) -> Tensor:
    return times(parts["across"], rest) if "across" in parts else torch.zeros_like(along)
