"""Linear maps in factored form P L U."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.bijectors._context_shift import ContextShift
from flowkit.bijectors._matrices import lower_upper, solve_lower_upper, times
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
        context_features: size of the context's last axis, 0 for none; the factors and the shift are then shifted by a net of it.
        hidden: widths of the net's hidden layers.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, equation 10; Oliva et al. (2018), arXiv:1801.09819.
    """

    traits = Traits(jacobian="constant")
    gather: Tensor
    scatter: Tensor
    sign: Tensor

    def __init__(self, features: int, *, order: Sequence[int] | None = None, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.features, self.order, self.bias = positive(features, "LULinear", "features"), order, bias
        self.context_features, self.hidden = context_features, tuple(hidden)
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
        self.net: ContextShift | None = None
        if context_features:
            self.context_shape = (context_features,)
            own = {"factors": self.factors, "log_diagonal": self.log_diagonal, "shift": self.shift}
            self.net = ContextShift({name: tuple(part.shape) for name, part in own.items() if part is not None}, context_features, self.hidden)

    def _parts(self, context: Any) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Factors, log-diagonal and shift at a context."""
        if self.net is None:
            return self.factors, self.log_diagonal, self.shift
        moved = self.net(context)
        factors = None if self.factors is None else self.factors + moved["factors"].to(self.factors.dtype)
        shift = None if self.shift is None else self.shift + moved["shift"].to(self.shift.dtype)
        return factors, self.log_diagonal + moved["log_diagonal"].to(self.log_diagonal.dtype), shift

    def _lower_upper(self, factors: Tensor | None, log_diagonal: Tensor) -> tuple[Tensor, Tensor]:
        return lower_upper(factors, self.sign * log_diagonal.exp())

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        factors, log_diagonal, shift = self._parts(context)
        lower, upper = self._lower_upper(factors, log_diagonal)
        with full_precision(z):
            x = times(lower, times(upper, z)).index_select(-1, self.gather)
        return x if shift is None else x + shift, constant_log_det(log_diagonal.sum(-1), z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        factors, log_diagonal, shift = self._parts(context)
        lower, upper = self._lower_upper(factors, log_diagonal)
        centred = (x if shift is None else x - shift).index_select(-1, self.scatter)
        exact = torch.promote_types(centred.dtype, torch.float32)  # triangular solves do not exist in half precision
        z = solve_lower_upper(lower.to(exact), upper.to(exact), centred.to(exact))
        return z.to(centred.dtype), constant_log_det(-log_diagonal.sum(-1), x, self.in_shape)

    def matrix(self, context: Tensor | None = None) -> Tensor:
        """The matrix P L U: (D, D), or (*B, D, D) with a context (*B, context_features)."""
        factors, log_diagonal, _ = self._parts(context)
        lower, upper = self._lower_upper(factors, log_diagonal)
        return (lower @ upper).index_select(-2, self.gather)

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, LULinear) or following.in_shape != self.in_shape or self.net is not None or following.net is not None:
            return None
        outer = following.matrix()
        shift = torch.zeros_like(self.log_diagonal) if self.shift is None else outer @ self.shift
        shift = shift if following.shift is None else shift + following.shift
        return _from_matrix(outer @ self.matrix(), shift)

    def inverted(self) -> LULinear | None:
        if self.net is not None:
            return None
        inverse = torch.linalg.inv(self.matrix())
        return _from_matrix(inverse, torch.zeros_like(self.log_diagonal) if self.shift is None else -inverse @ self.shift)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LULinear]]:
        yield "plain", cls(3)
        yield "permuted", cls(4, order=(2, 0, 3, 1), bias=False)
        yield "single", cls(1)
        yield "conditional", cls(3, order=(1, 2, 0), context_features=2)


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
