"""Linear maps by a free weight matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import GeneralLinearMap, Parts
from flowkit.bijectors._matrices import random_rotation, solve_lower_upper, times
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive
from flowkit.numerics.value_cache import ValueCache


@BIJECTORS.register("linear")
class Linear(GeneralLinearMap):
    """x = W z + shift with a free W; inverse and log_det by its LU factorisation.

    The only form here that can reach a singular matrix: log_det is then -inf, which an exact likelihood keeps W away from.
    ``LULinear`` and the other factored forms cannot. Forward costs one product and, for log_det, a factorisation of O(D^3); inverse
    the factorisation and two triangular solves. Where no gradient flows into W the factorisation is kept until W changes
    (see ``ValueCache``: by value, so never stale).

    Args:
        features: D.
        start: "identity", or "rotation", a random one.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; W and shift then depend on it, one factorisation per event.
        hidden: widths of the hidden layers of the context's net.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, section 3.2.
    """

    def __init__(
        self,
        features: int,
        *,
        start: Literal["identity", "rotation"] = "identity",
        bias: bool = True,
        context_features: int = 0,
        hidden: Sequence[int] = (),
    ) -> None:
        size = positive(features, "Linear", "features")
        if start not in ("identity", "rotation"):
            raise ConfigError(f"Linear: expected start to be 'identity' or 'rotation'; got {start!r}.")
        weight = torch.eye(size) if start == "identity" else random_rotation(size)
        super().__init__(size, {"weight": weight}, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.start = size, start
        self._cache = ValueCache()

    def _parts(self, context: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        parts = super()._parts(context, dtype)
        packed, order, log_det = _factor(parts["weight"]) if self.context_features else self._cache.get(_factor, parts["weight"])
        return parts | {"packed": packed, "order": order, "log_det": log_det}

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        return times(parts["weight"], value), parts["log_det"]

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        packed = parts["packed"]  # each solve reads its own triangle; three times as fast as torch.linalg.lu_solve for many rows
        return solve_lower_upper(packed, packed, value.gather(-1, parts["order"].expand(value.shape))), parts["log_det"]

    def _from_matrix(self, matrix: Tensor, shift: Tensor) -> Linear:
        return Linear(self.features)._filled(weight=matrix, shift=shift)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Linear]]:
        yield "plain", cls(3)
        yield "conditional", cls(2, context_features=2)
        yield "rotation", cls(4, start="rotation", bias=False)


def _factor(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L below and U on and above the diagonal of one matrix, the order of rows W = P L U, log|det|. A singular matrix gives -inf."""
    packed, pivots, _ = torch.linalg.lu_factor_ex(weight)
    order = torch.lu_unpack(packed, pivots, unpack_data=False)[0].argmax(-2)
    return packed, order, packed.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
