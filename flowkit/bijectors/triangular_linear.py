"""Triangular linear maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import identity_like, solve_triangular, times, triangular
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive
from flowkit.core.transform import Transform


@BIJECTORS.register("triangular_linear")
class TriangularLinear(LinearMap):
    """x = T z + shift, T lower (or upper) triangular with diagonal exp(log_diagonal).

    Pushing a standard normal through it gives every normal law, T being its covariance's Cholesky factor. Starts as the identity.
    Forward costs one product, inverse one triangular solve, log_det D additions.

    Args:
        features: D.
        upper: take the upper triangle.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; T and shift then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Papamakarios, Nalisnick, Rezende, Mohamed and Lakshminarayanan (2021), Normalizing flows for probabilistic modeling
    and inference, arXiv:1912.02762.
    """

    def __init__(self, features: int, *, upper: bool = False, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size = positive(features, "TriangularLinear", "features")
        start = {"log_diagonal": torch.zeros(size)} | ({"entries": torch.zeros(size, size)} if size > 1 else {})
        super().__init__(size, start, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.upper = size, upper

    def _triangle(self, parts: Parts) -> Tensor:
        return triangular(parts.get("entries"), parts["log_diagonal"].exp(), upper=self.upper)

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return times(self._triangle(parts), value), parts["log_diagonal"].sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return solve_triangular(self._triangle(parts), value, upper=self.upper), parts["log_diagonal"].sum(-1)

    def merge(self, following: Transform) -> Transform | None:
        outer = self._mergeable(following)
        if outer is None or outer.upper != self.upper:
            return None
        matrix = outer.matrix()
        logs = self.learned.values["log_diagonal"] + outer.learned.values["log_diagonal"]
        return self._copy(matrix @ self.matrix(), logs, matrix @ self._shift() + outer._shift())

    def inverted(self) -> TriangularLinear | None:
        if self.context_features:
            return None
        matrix = self.matrix()
        inverse = torch.linalg.solve_triangular(matrix, identity_like(matrix, self.features), upper=self.upper)
        return self._copy(inverse, -self.learned.values["log_diagonal"], -inverse @ self._shift())

    def _copy(self, matrix: Tensor, log_diagonal: Tensor, shift: Tensor) -> TriangularLinear:
        return TriangularLinear(self.features, upper=self.upper)._filled(entries=matrix, log_diagonal=log_diagonal, shift=shift)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TriangularLinear]]:
        yield "lower", cls(3)
        yield "conditional", cls(3, context_features=2, hidden=(4,))
        yield "upper", cls(2, upper=True, bias=False)
