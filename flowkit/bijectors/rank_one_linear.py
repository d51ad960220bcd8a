"""Linear maps as products of rank-one updates of the identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("rank_one_linear")
class RankOneLinear(LinearMap):
    """x = (I + u_m v_m^T) ... (I + u_1 v_1^T) z + shift, each factor with determinant 1 + v.u = exp(v.w) > 0.

    From a free w, u = w + (exp(a) - 1 - a) v / |v|^2 with a = v.w, so every parameter value is invertible and log_det is the sum of
    the a. Inverses follow each factor by Sherman and Morrison's formula, x - u (v.x) / (1 + v.u): no factorisation is needed.
    Starts as the identity. Either direction costs m products of O(D).

    Args:
        features: D.
        updates: m; D of them reach a generic matrix.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; every update then depends on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Kramer, Kohler and Noe (2020), Training invertible linear layers through rank-one perturbations, arXiv:2010.07033.
    """

    def __init__(self, features: int, updates: int = 2, *, bias: bool = True, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        size, count = positive(features, "RankOneLinear", "features"), positive(updates, "RankOneLinear", "updates")
        start = {"free": torch.zeros(count, size), "normal": torch.randn(count, size) / size**0.5}
        super().__init__(size, start, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.updates = size, count

    def _updates(self, parts: Parts) -> tuple[Tensor, Tensor, Tensor]:
        """u and v (*B, m, D), and log(1 + v.u) (*B, m)."""
        w, v = parts["free"], parts["normal"]
        a = (w * v).sum(-1)
        square = v.square().sum(-1).clamp_min(torch.finfo(v.dtype).tiny)
        return w + ((torch.expm1(a) - a) / square).unsqueeze(-1) * v, v, a

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        us, vs, logs = self._updates(parts)
        for u, v in zip(us.unbind(-2), vs.unbind(-2), strict=True):
            value = value + u * (value * v).sum(-1, keepdim=True)
        return value, logs.sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        us, vs, logs = self._updates(parts)
        for i in reversed(range(self.updates)):
            u, v, shrink = us.select(-2, i), vs.select(-2, i), (-logs.select(-1, i)).exp().unsqueeze(-1)
            value = value - u * ((value * v).sum(-1, keepdim=True) * shrink)
        return value, logs.sum(-1)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RankOneLinear]]:
        yield "two", cls(3, 2)
        yield "conditional", cls(2, 2, context_features=2)
        yield "single", cls(1, 1, bias=False)
