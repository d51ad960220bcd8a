"""Linear maps of matrices by a Kronecker product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import lower_upper, solve_triangular
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("kronecker_linear")
class KroneckerLinear(LinearMap):
    """X = A Z B^T + shift on matrices of m rows and n columns, which is A (x) B on their entries read row by row.

    A = L U and B = L U with unit lower L and U's diagonal exponential; log|det| = n log|det A| + m log|det B|. Starts as the identity.
    An m n x m n matrix at the price of two small ones: either direction costs O(m n (m + n)) per event.

    Args:
        rows, columns: m and n.
        flat: events of shape (m n,) instead of (m, n).
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; A, B and the shift then depend on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Van Loan (2000), The ubiquitous Kronecker product, J. Comput. Appl. Math. 123.
    """

    def __init__(self, rows: int, columns: int, *, flat: bool = False, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        start: dict[str, Tensor] = {}
        rows, columns = positive(rows, "KroneckerLinear", "rows"), positive(columns, "KroneckerLinear", "columns")
        for side, size in (("left", rows), ("right", columns)):
            start[f"{side}_log_diagonal"] = torch.zeros(size)
            if size > 1:
                start[f"{side}_factors"] = torch.zeros(size, size)
        super().__init__(rows * columns if flat else (rows, columns), start, bias=bias, context_features=context_features, hidden=hidden)
        self.rows, self.columns, self.flat = rows, columns, flat

    def _side(self, parts: Parts, side: str) -> tuple[Tensor, Tensor]:
        return lower_upper(parts.get(f"{side}_factors"), parts[f"{side}_log_diagonal"].exp())

    def _log_det(self, parts: Parts) -> Tensor:
        return self.columns * parts["left_log_diagonal"].sum(-1) + self.rows * parts["right_log_diagonal"].sum(-1)

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        (lower_a, upper_a), (lower_b, upper_b) = self._side(parts, "left"), self._side(parts, "right")
        matrix = value.unflatten(-1, (self.rows, self.columns)) if self.flat else value
        matrix = (lower_a @ upper_a) @ matrix @ (lower_b @ upper_b).mT
        return matrix.flatten(-2) if self.flat else matrix, self._log_det(parts)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        matrix = value.unflatten(-1, (self.rows, self.columns)) if self.flat else value
        for side in ("left", "right"):
            lower, upper = self._side(parts, side)
            matrix = _columns(upper, _columns(lower, matrix, upper=False, unit=True), upper=True, unit=False).mT  # A^-1 Z, turned for B's side
        return matrix.flatten(-2) if self.flat else matrix, self._log_det(parts)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, KroneckerLinear]]:
        yield "matrix", cls(2, 3)
        yield "conditional", cls(2, 2, flat=True, context_features=2)
        yield "column", cls(2, 1, bias=False)


def _columns(matrix: Tensor, value: Tensor, *, upper: bool, unit: bool) -> Tensor:
    """M^-1 V for a triangular M (m, m) or (*B, m, m) and V (*B, m, n)."""
    if matrix.dim() == 2:
        return solve_triangular(matrix, value.mT, upper=upper, unit=unit).mT
    return torch.linalg.solve_triangular(matrix, value, upper=upper, unitriangular=unit)
