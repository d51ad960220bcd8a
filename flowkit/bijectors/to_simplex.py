"""From R^n onto a simplex."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_forward_solved, tails
from flowkit.core.domain.simplex import Simplex
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector


@BIJECTORS.register("to_simplex")
class ToSimplex(Bijector):
    """R^D onto {x > 0, sum(x) < 1} by breaking a stick: x_i = v_i (1 - x_1 - ... - x_{i-1}), v_i = sigmoid(z_i - log(D - i + 1)).

    z = 0 is the centre. Kept in logarithms, so neither end underflows early.

    Args:
        features: D, the free proportions.

    Reference: Stan Development Team, Stan Reference Manual, "Unit simplex transform".
    """

    traits = Traits(jacobian="triangular", score="closed")

    def __init__(self, features: int) -> None:
        super().__init__()
        features = positive(features, "ToSimplex", "features")
        self.features = features
        self._codomain = Simplex(features)
        self.in_shape = self.out_shape = (features,)

    def _offset(self, like: Tensor) -> Tensor:
        return torch.arange(self.features, 0, -1, dtype=like.dtype, device=like.device).log()

    def _logs(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log x_i and log of the stick left before i."""
        share = z - self._offset(z)
        left = functional.pad(functional.logsigmoid(-share)[..., :-1].cumsum(-1), (1, 0))
        return functional.logsigmoid(share) + left, left

    def _log_det(self, z: Tensor) -> Tensor:
        log_x, _ = self._logs(z)
        return sum_event(log_x + functional.logsigmoid(self._offset(z) - z), 1)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        log_x, _ = self._logs(z)
        x = log_x.exp() * (1 - 4 * torch.finfo(z.dtype).eps)
        return x, self._log_det(z)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        tiny, eps = torch.finfo(x.dtype).tiny, torch.finfo(x.dtype).eps
        x = (x / (1 - 4 * eps)).clamp(min=tiny)
        last = (1 - x.sum(-1, keepdim=True)).clamp(min=eps)
        # the stick left after i, added up from its small end
        after = torch.cat([x[..., 1:], last], dim=-1).flip(-1).cumsum(-1).flip(-1)
        z = x.log() - after.log() + self._offset(x)
        return z, -self._log_det(z)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v.

        dx_i/dz_i = x_i (1 - v_i) and dx_i/dz_j = -x_i v_j for j < i, so b = J^T s is b_j = x_j (1 - v_j) s_j - v_j T_j with T_j the
        sum of x_i s_i over i > j: (1 - v_j) T_{j-1} = b_j + T_j.
        """
        x, log_det = self._forward(z, None, None)

        def solve(b: Tensor) -> Tensor:
            log_x, _ = self._logs(z)
            share = z - self._offset(z)
            rest = functional.logsigmoid(-share)
            return (b + torch.sigmoid(share) * tails(b, rest)) * torch.exp(-log_x - rest)

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToSimplex]]:
        yield "triangle", cls(2)
        yield "four", cls(4)
