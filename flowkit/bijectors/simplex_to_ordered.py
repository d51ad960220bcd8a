"""From a simplex onto the increasing vectors: cut points of an ordinal law."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_forward_solved
from flowkit.core.domain.ordered import Ordered
from flowkit.core.domain.simplex import Simplex
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector


@BIJECTORS.register("simplex_to_ordered")
class SimplexToOrdered(Bijector):
    """x_i = anchor + logit(z_1 + ... + z_i): the cut points at which a logistic variable falls into classes with probabilities z.

    From {z > 0, sum(z) < 1} (D free proportions, the last is 1 - sum(z)) onto {x_1 < ... < x_D};
    log_det = -sum(log c_i + log(1 - c_i)) with c the running sums. 1 - c is added up from the small end, and the inverse takes
    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), so neither end cancels.

    Args:
        features: D, one less than the number of classes.
        anchor: location of the logistic variable.

    Reference: Betancourt (2019), Ordinal regression, case study, section 2.2 (the induced Dirichlet prior).
    """

    traits = Traits(jacobian="triangular", score="closed")

    def __init__(self, features: int, *, anchor: float = 0.0) -> None:
        super().__init__()
        features = positive(features, "SimplexToOrdered", "features")
        self.features, self.anchor = features, anchor
        self._domain = Simplex(features)
        codomain = Ordered(features)
        self._codomain = None if codomain.trivial else codomain
        self.in_shape = self.out_shape = (features,)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        info = torch.finfo(z.dtype)
        z = z.clamp(min=info.tiny)
        last = (1 - z.sum(-1, keepdim=True)).clamp(min=info.eps / 2)
        log_c = z.cumsum(-1).log()
        log_rest = torch.cat([z[..., 1:], last], dim=-1).flip(-1).cumsum(-1).flip(-1).log()
        return self.anchor + log_c - log_rest, -sum_event(log_c + log_rest, 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = x - self.anchor
        upper, lower = x[..., 1:], x[..., :-1]
        parts = torch.sigmoid(upper) * torch.sigmoid(-lower) * -torch.expm1(lower - upper)
        z = torch.cat([torch.sigmoid(x[..., :1]), parts], dim=-1)
        # rounding may make z sum to 1 or more: this shrinking keeps it inside the simplex. Its part of log_det, D log(1 - 4 eps),
        # is a rounding error and left out, so that log_det is the exact map's
        return z * (1 - 4 * torch.finfo(x.dtype).eps), sum_event(functional.logsigmoid(x) + functional.logsigmoid(-x), 1)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v: differences that undo running sums, times c (1 - c)."""
        x, log_det = self._forward(z, None, None)

        def solve(v: Tensor) -> Tensor:
            logit = x - self.anchor
            return (v - functional.pad(v[..., 1:], (0, 1))) * torch.sigmoid(logit) * torch.sigmoid(-logit)

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SimplexToOrdered]]:
        yield "three", cls(3)
        yield "anchored", cls(2, anchor=1.5)
