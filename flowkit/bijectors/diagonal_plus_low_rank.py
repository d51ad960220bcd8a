"""A diagonal plus a low-rank matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._low_rank import low_rank_solve, low_rank_start, low_rank_times
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("diagonal_plus_low_rank")
class DiagonalPlusLowRank(LinearMap):
    """x = (D + U V^T) z + shift with D = diag(exp(log_diagonal)) and U, V of shape (features, k), invertible at every parameter value.

    Written as D (I + Q V^T), U = D Q with orthonormal Q: log|det| = sum log_diagonal + log det(I_k + V^T Q), the last a product of
    exponentials (see ``LowRankLinear``), and the inverse is Woodbury's. Starts as the identity.
    Either direction costs O(k D) per event and O(k^2 D) per call.

    Args:
        features: size of the event.
        rank: k, at most ``features``.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; D, U, V and the shift then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Lu and Huang (2020), Woodbury transformations for deep generative flows, arXiv:2002.12229.
    """

    def __init__(self, features: int, rank: int = 1, *, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        features, rank = positive(features, "DiagonalPlusLowRank", "features"), positive(rank, "DiagonalPlusLowRank", "rank")
        start = low_rank_start(features, rank, "DiagonalPlusLowRank") | {"log_diagonal": torch.zeros(features)}
        super().__init__(features, start, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.rank = features, rank

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        value, total = low_rank_times(parts, value)
        return value * parts["log_diagonal"].exp(), total + parts["log_diagonal"].sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        value, total = low_rank_solve(parts, value * (-parts["log_diagonal"]).exp())
        return value, total + parts["log_diagonal"].sum(-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiagonalPlusLowRank]]:
        yield "rank2", cls(4, 2)
        yield "conditional", cls(2, 1, context_features=3, hidden=(4,))
