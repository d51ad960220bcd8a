"""From R^n onto the Cholesky factors of correlation matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_forward_solved, tails
from flowkit.bijectors._triangle import fill, take
from flowkit.core.domain.correlation_cholesky import CorrelationCholesky
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.activations import log_sech


@BIJECTORS.register("to_correlation_cholesky", "correlation_cholesky")
class ToCorrelationCholesky(Bijector):
    """R^(n (n-1) / 2) onto the Cholesky factors L of (n, n) correlation matrices, by partial correlations tanh(z_ij).

    1. Row i: L_ij = tanh(z_ij) r_ij for j < i, r_ij = prod over k < j of sech(z_ik), and L_ii = r_ii, so rows have length one.
    2. d L_ij / d z_ij = sech^2(z_ij) r_ij and L_ij does not depend on z_ik for k > j: log_det, counted in the entries below
       the diagonal, is the sum of log(sech^2(z_ij) r_ij).
    3. Back: sinh(z_ij) = L_ij / r_i(j+1), and r_ij^2 = 1 - sum over k < j of L_ik^2 = L_ii^2 + sum over k from j to i - 1 of L_ik^2.

    The inverse takes the value of r from the second sum, which cannot cancel, and its derivative from the first, so that
    derivatives are those in the free entries (the diagonal has none). Squares underflow in a row whose |z| add up to more than
    about 43 (float32) or 353 (float64).

    Args:
        size: n >= 2.

    Reference: Lewandowski, Kurowicka, Joe (2009), Generating random correlation matrices based on vines and extended onion
    method, J. Multivariate Analysis 100.
    """

    traits = Traits(score="closed")

    def __init__(self, size: int) -> None:
        super().__init__()
        size = positive(size, "ToCorrelationCholesky", "size")
        self.size = size
        self._codomain = CorrelationCholesky(size)
        self.in_shape, self.out_shape = (size * (size - 1) // 2,), (size, size)

    def _log_det(self, logs: Tensor, log_r: Tensor) -> Tensor:
        return sum_event((2 * logs + log_r).tril(-1), 2)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        free = fill(z, self.size, -1)
        logs = log_sech(free)
        # log r_ij: entries on and above the diagonal are zeros of z, whose sech is one
        log_r = functional.pad(logs.cumsum(-1)[..., :-1], (1, 0))
        r = log_r.exp()
        x = (torch.tanh(free) * r).tril(-1) + r.diagonal(dim1=-2, dim2=-1).diag_embed()
        return x, self._log_det(logs, log_r)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        below = x.tril(-1)
        square = below.square()
        tiny = torch.finfo(x.dtype).tiny
        # r_i(j+1)^2: what is left of the row after column j, by either sum
        after = functional.pad(square.flip(-1).cumsum(-1).flip(-1)[..., 1:], (0, 1))
        exact = (after + x.diagonal(dim1=-2, dim2=-1).square().unsqueeze(-1)).detach()
        left = exact.clamp(min=tiny) - (square.cumsum(-1) - square.cumsum(-1).detach())
        free = torch.asinh(below * left.rsqrt()).tril(-1)
        logs = log_sech(free)
        log_r = functional.pad(logs.cumsum(-1)[..., :-1], (1, 0))
        return take(free, -1), -self._log_det(logs, log_r)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v in the entries below the diagonal; the others have no part.

        dL_ij/dz_ij = sech^2(z_ij) r_ij and dL_ik/dz_ij = -tanh(z_ij) L_ik for k > j, so b = J^T s is b_j = sech_j^2 r_j s_j - tanh_j T_j with
        T_j the sum of L_ik s_k over k > j: sech_j^2 T_{j-1} = tanh_j b_j + T_j.
        """
        x, log_det = self._forward(z, None, None)

        def solve(v: Tensor) -> Tensor:
            free, b = fill(z, self.size, -1), fill(v, self.size, -1)
            logs, slope = log_sech(free), torch.tanh(free)
            log_r = functional.pad(logs.cumsum(-1)[..., :-1], (1, 0))
            return ((b + slope * tails(slope * b, 2 * logs)) * torch.exp(-2 * logs - log_r)).tril(-1)

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToCorrelationCholesky]]:
        yield "three", cls(3)
        yield "two", cls(2)
