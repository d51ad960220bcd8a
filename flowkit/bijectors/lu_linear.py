"""Linear maps in factored form P L U."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import GeneralLinearMap, Parts
from flowkit.bijectors._matrices import lower_upper, solve_lower_upper, solve_triangular, times
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("lu_linear")
class LULinear(GeneralLinearMap):
    """x = P L U z + bias: L unit lower triangular, U upper triangular with diagonal sign * exp(log_diagonal), P fixed.

    Starts as the identity followed by P. Forward costs two products, inverse two triangular solves, log_det D additions.

    Args:
        features: D.
        order: the fixed permutation, output i taken from position order[i]; default none.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; the factors and the shift are then shifted by a net of it.
        hidden: widths of the net's hidden layers.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, equation 10; Oliva et al. (2018), arXiv:1801.09819.
    """

    own_names = True
    gather: Tensor
    scatter: Tensor
    sign: Tensor
    factors: Tensor | None
    log_diagonal: Tensor
    shift: Tensor | None

    def __init__(self, features: int, *, order: Sequence[int] | None = None, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size = positive(features, "LULinear", "features")
        positions = list(range(size)) if order is None else [int(i) for i in order]
        if sorted(positions) != list(range(size)):
            raise ConfigError(f"LULinear: expected order to be a permutation of 0 .. {size - 1}; got {order}.")
        start = {"factors": torch.zeros(size, size)} if size > 1 else {}  # L below, U above the diagonal
        super().__init__(size, start | {"log_diagonal": torch.zeros(size)}, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.order = size, order
        for name in {"factors", "shift"} - set(self.learned.shapes):
            self.register_parameter(name, None)
        gather = torch.tensor(positions)
        self.register_buffer("gather", gather, persistent=False)
        self.register_buffer("scatter", gather.argsort(), persistent=False)
        self.register_buffer("sign", torch.ones(size))

    def _lower_upper(self, parts: Parts) -> tuple[Tensor, Tensor]:
        return lower_upper(parts.get("factors"), self.sign * parts["log_diagonal"].exp())

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._lower_upper(parts)
        return times(lower, times(upper, value)).index_select(-1, self.gather), parts["log_diagonal"].sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return solve_lower_upper(*self._lower_upper(parts), value.index_select(-1, self.scatter)), parts["log_diagonal"].sum(-1)

    def _times_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        lower, upper = self._lower_upper(parts)
        return times(upper.mT, times(lower.mT, value.index_select(-1, self.scatter)))

    def _solve_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        lower, upper = self._lower_upper(parts)
        half = solve_triangular(upper.mT, value, upper=False)
        return solve_triangular(lower.mT, half, upper=True, unit=True).index_select(-1, self.gather)

    def _from_matrix(self, matrix: Tensor, shift: Tensor) -> LULinear:
        permutation, lower, upper = torch.linalg.lu(matrix)
        diagonal, factors = upper.diagonal(), lower.tril(-1) + upper.triu(1)
        made: LULinear = LULinear(self.features, order=permutation.argmax(1).tolist())
        made._filled(log_diagonal=diagonal.abs().log(), factors=factors, shift=shift)
        made.sign.copy_(diagonal.sign())
        return made

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LULinear]]:
        yield "plain", cls(3)
        yield "permuted", cls(4, order=(2, 0, 3, 1), bias=False)
        yield "single", cls(1)
        yield "conditional", cls(3, order=(1, 2, 0), context_features=2)
