"""Symmetric positive definite linear maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import solve_triangular, times, triangular
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("cholesky_linear")
class CholeskyLinear(LinearMap):
    """x = L L^T z + shift: a symmetric positive definite matrix by its Cholesky factor, L lower with diagonal exp(log_diagonal).

    The gradient of a convex quadratic, so the optimal transport map between two normal laws has this form; a map by L alone is
    ``TriangularLinear``. Starts as the identity. Either direction costs two triangular products or solves, log_det D additions.

    Args:
        features: D.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; L and shift then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Brenier (1991), Polar factorization, Comm. Pure Appl. Math. 44; Peyre and Cuturi (2019), Computational optimal transport, arXiv:1803.00567.
    """

    def __init__(self, features: int, *, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size = positive(features, "CholeskyLinear", "features")
        start = {"log_diagonal": torch.zeros(size)} | ({"entries": torch.zeros(size, size)} if size > 1 else {})
        super().__init__(size, start, bias=bias, context_features=context_features, hidden=hidden)
        self.features = size

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        lower = triangular(parts.get("entries"), parts["log_diagonal"].exp(), upper=False)
        return times(lower, times(lower.mT, value)), 2 * parts["log_diagonal"].sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        lower = triangular(parts.get("entries"), parts["log_diagonal"].exp(), upper=False)
        half = solve_triangular(lower, value, upper=False)
        return solve_triangular(lower.mT, half, upper=True), 2 * parts["log_diagonal"].sum(-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CholeskyLinear]]:
        yield "plain", cls(3)
        yield "conditional", cls(2, context_features=3)
