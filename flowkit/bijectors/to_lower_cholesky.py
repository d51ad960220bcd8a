"""From R^n onto the Cholesky factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_forward_solved
from flowkit.bijectors._triangle import fill, take
from flowkit.core.domain.lower_cholesky import LowerCholesky
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.activations import softplus_inverse


@BIJECTORS.register("to_lower_cholesky", "cholesky_factor")
class ToLowerCholesky(Bijector):
    """R^(n (n+1) / 2) onto the lower triangular (n, n) matrices with a positive diagonal, filled row by row; softplus on the diagonal.

    log_det = sum of log sigmoid over the diagonal's entries: volumes are counted in the lower entries of the matrix, and the
    inverse reads only those. L L^T then runs through the positive definite matrices.

    Args:
        size: n.
    """

    traits = Traits(score="closed")

    def __init__(self, size: int) -> None:
        super().__init__()
        size = positive(size, "ToLowerCholesky", "size")
        self.size = size
        self._codomain = LowerCholesky(size)
        self.in_shape, self.out_shape = (size * (size + 1) // 2,), (size, size)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        free = fill(z, self.size, 0)
        diagonal = free.diagonal(dim1=-2, dim2=-1)
        positive = functional.softplus(diagonal, threshold=40.0).clamp(min=torch.finfo(z.dtype).tiny)
        return free.tril(-1) + positive.diag_embed(), sum_event(functional.logsigmoid(diagonal), 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        diagonal = softplus_inverse(x.diagonal(dim1=-2, dim2=-1))
        return take(x.tril(-1) + diagonal.diag_embed(), 0), -sum_event(functional.logsigmoid(diagonal), 1)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v in the lower entries; the upper ones have no part."""
        x, log_det = self._forward(z, None, None)

        def solve(v: Tensor) -> Tensor:
            entries, diagonal = fill(v, self.size, 0), fill(z, self.size, 0).diagonal(dim1=-2, dim2=-1)
            return entries.tril(-1) + (entries.diagonal(dim1=-2, dim2=-1) * (1 + torch.exp(-diagonal))).diag_embed()

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToLowerCholesky]]:
        yield "two", cls(2)
        yield "one", cls(1)
