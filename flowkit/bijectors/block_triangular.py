"""Block-triangular linear maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import lower_upper, solve_lower_upper, times
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes


@BIJECTORS.register("block_triangular")
class BlockTriangular(LinearMap):
    """x = A z + shift, A lower block-triangular: block k of x depends on blocks 0 .. k of z.

    A = L U with L unit lower triangular over all features and U upper triangular within the blocks, zero between them. So the
    diagonal blocks are L_kk U_kk, invertible for all parameters since diag(U) = exp(log_diagonal), and the blocks below,
    L_kj U_jj, are free. Blocks of size 1 make A lower triangular with a positive diagonal; one block of size D a full matrix.
    Starts as the identity.

    Forward costs two triangular products, inverse two triangular solves, log_det D additions; with a context the matrix is
    one for each row.

    Args:
        features: D.
        blocks: sizes of the diagonal blocks, summing to D, or one size for all of them.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; A and shift then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import BlockTriangular
        >>> x, log_det = BlockTriangular(4, 2)(torch.ones(4))
        >>> x.tolist(), log_det.item()
        ([1.0, 1.0, 1.0, 1.0], 0.0)
    """

    within: Tensor

    def __init__(self, features: int, blocks: int | Sequence[int] = 1, *, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size = positive(features, "BlockTriangular", "features")
        start = {"log_diagonal": torch.zeros(size)} | ({"factors": torch.zeros(size, size)} if size > 1 else {})  # L below, U above the diagonal
        super().__init__(size, start, bias=bias, context_features=context_features, hidden=hidden)
        sizes = _sizes(size, blocks)
        self.features, self.blocks = size, tuple(sizes) if isinstance(blocks, Sequence) else sizes[0]
        member = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))  # which block a feature is in
        self.register_buffer("within", member[:, None] == member, persistent=False)

    def _factors(self, parts: Parts) -> tuple[Tensor, Tensor]:
        lower, upper = lower_upper(parts.get("factors"), parts["log_diagonal"].exp())
        return lower, upper * self.within

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors(parts)
        return times(lower, times(upper, value)), parts["log_diagonal"].sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return solve_lower_upper(*self._factors(parts), value), parts["log_diagonal"].sum(-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, BlockTriangular]]:
        yield "blocks", cls(4, (2, 1, 1))
        yield "conditional", cls(4, 2, context_features=2, hidden=(8,))
        yield "triangular", cls(3, bias=False)
        yield "single", cls(1)


def _sizes(features: int, blocks: int | Sequence[int]) -> list[int]:
    equal = None if isinstance(blocks, Sequence) else positive(blocks, "BlockTriangular", "blocks")
    if equal is not None and features % equal == 0:
        return [equal] * (features // equal)
    if not isinstance(blocks, Sequence) or sum(positive_sizes(blocks, "BlockTriangular", "blocks")) != features:
        raise ConfigError(f"BlockTriangular: expected block sizes >= 1 that sum to features = {features}; got {blocks}. Pass e.g. blocks=(2, 1).")
    return [int(size) for size in blocks]
