"""The identity plus a low-rank matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._low_rank import low_rank_solve, low_rank_start, low_rank_times
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("low_rank_linear")
class LowRankLinear(LinearMap):
    """x = (I + U V^T) z + shift with U, V of shape (D, k), invertible at every parameter value.

    U's columns are kept orthonormal and I_k + V^T U, whose determinant is W's, is a product of triangular factors with a
    positive diagonal: every such W with a positive determinant is reached, up to the order of pivots. Starts as the identity.
    Either direction costs O(k D) per event and O(k^2 D) per call, log_det k additions.

    Args:
        features: D.
        rank: k, at most D.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; U, V and the shift then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Lu and Huang (2020), Woodbury transformations for deep generative flows, arXiv:2002.12229.
    """

    def __init__(self, features: int, rank: int = 1, *, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        features, rank = positive(features, "LowRankLinear", "features"), positive(rank, "LowRankLinear", "rank")
        super().__init__(features, low_rank_start(features, rank, "LowRankLinear"), bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.rank = features, rank

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return low_rank_times(parts, value)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return low_rank_solve(parts, value)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LowRankLinear]]:
        yield "rank2", cls(4, 2)
        yield "conditional", cls(3, 1, context_features=2)
        yield "full", cls(2, 2, bias=False)
