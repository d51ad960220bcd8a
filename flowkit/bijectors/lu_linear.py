"""Linear maps in factored form P L U."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import constant_log_det, positive
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform
from flowkit.numerics.precision import full_precision


@BIJECTORS.register("lu_linear")
class LULinear(Bijector):
    """x = P L U z + bias: L unit lower triangular, U upper triangular with diagonal sign * exp(log_diagonal), P fixed.

    Starts as the identity followed by P. Forward costs two products, inverse two triangular solves, log_det D additions.

    Args:
        features: D.
        order: the fixed permutation, output i taken from position order[i]; default none.
        bias: whether a shift is learned.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, equation 10; Oliva et al. (2018), arXiv:1801.09819.
    """

    traits = Traits(jacobian="constant")
    gather: Tensor
    scatter: Tensor
    sign: Tensor

    def __init__(self, features: int, *, order: Sequence[int] | None = None, bias: bool = True) -> None:
        super().__init__()
        self.features, self.order, self.bias = positive(features, "LULinear", "features"), order, bias
        self.in_shape = self.out_shape = (features,)
        positions = list(range(features)) if order is None else [int(i) for i in order]
        if sorted(positions) != list(range(features)):
            raise ConfigError(f"LULinear: expected order to be a permutation of 0 .. {features - 1}; got {order}.")
        gather = torch.tensor(positions)
        self.register_buffer("gather", gather, persistent=False)
        self.register_buffer("scatter", gather.argsort(), persistent=False)
        self.register_buffer("sign", torch.ones(features))
        self.factors = nn.Parameter(torch.zeros(features, features)) if features > 1 else None  # L below, U above the diagonal
        self.log_diagonal = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features)) if bias else None

    def _lower_upper(self) -> tuple[Tensor, Tensor]:
        diagonal = torch.diag_embed(self.sign * self.log_diagonal.exp())
        if self.factors is None:
            return torch.ones_like(diagonal), diagonal
        eye = torch.diag_embed(torch.ones_like(self.log_diagonal))
        return self.factors.tril(-1) + eye, self.factors.triu(1) + diagonal

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._lower_upper()
        with full_precision(z):
            x = (z @ upper.mT @ lower.mT).index_select(-1, self.gather)
        return x if self.shift is None else x + self.shift, constant_log_det(self.log_diagonal.sum(), z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._lower_upper()
        centred = (x if self.shift is None else x - self.shift).index_select(-1, self.scatter)
        exact = torch.promote_types(centred.dtype, torch.float32)  # triangular solves do not exist in half precision
        rows = centred.reshape(-1, self.features).to(exact)  # one system for the whole batch
        rows = torch.linalg.solve_triangular(lower.mT.to(exact), rows, upper=True, left=False, unitriangular=True)
        rows = torch.linalg.solve_triangular(upper.mT.to(exact), rows, upper=False, left=False)
        return rows.reshape(centred.shape).to(centred.dtype), constant_log_det(-self.log_diagonal.sum(), x, self.in_shape)

    def matrix(self) -> Tensor:
        """The matrix P L U (D, D)."""
        lower, upper = self._lower_upper()
        return (lower @ upper).index_select(0, self.gather)

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, LULinear) or following.in_shape != self.in_shape:
            return None
        outer = following.matrix()
        shift = torch.zeros_like(self.log_diagonal) if self.shift is None else outer @ self.shift
        shift = shift if following.shift is None else shift + following.shift
        return _from_matrix(outer @ self.matrix(), shift)

    def inverted(self) -> LULinear:
        inverse = torch.linalg.inv(self.matrix())
        return _from_matrix(inverse, torch.zeros_like(self.log_diagonal) if self.shift is None else -inverse @ self.shift)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LULinear]]:
        yield "plain", cls(3)
        yield "permuted", cls(4, order=(2, 0, 3, 1), bias=False)
        yield "single", cls(1)


@torch.no_grad()
def _from_matrix(matrix: Tensor, shift: Tensor) -> LULinear:
    permutation, lower, upper = torch.linalg.lu(matrix)
    features = matrix.shape[0]
    made = LULinear(features, order=permutation.argmax(1).tolist()).to(matrix)
    diagonal = upper.diagonal()
    made.sign.copy_(diagonal.sign())
    made.log_diagonal.copy_(diagonal.abs().log())
    if made.factors is not None:
        made.factors.copy_(lower.tril(-1) + upper.triu(1))
    assert made.shift is not None
    made.shift.copy_(shift)
    return made
