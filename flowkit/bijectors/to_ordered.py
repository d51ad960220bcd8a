"""From R^n onto the increasing vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_forward_solved
from flowkit.core.domain.ordered import Ordered
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.activations import softplus_inverse


@BIJECTORS.register("to_ordered")
class ToOrdered(Bijector):
    """R^D onto {x_1 < x_2 < ... < x_D}: x_1 = z_1, x_i = x_(i-1) + softplus(z_i); log_det = sum over i >= 2 of log sigmoid(z_i).

    Steps of the inverse that rounding made zero are held at the smallest normal number. Steps below the spacing of floats at
    x are lost in x.

    Args:
        features: D.

    Reference: Stan Development Team, Stan Reference Manual, "Ordered vector" (with exp in place of softplus).
    """

    traits = Traits(jacobian="triangular", score="closed")

    def __init__(self, features: int) -> None:
        super().__init__()
        features = positive(features, "ToOrdered", "features")
        self.features = features
        domain = Ordered(features)
        self._codomain = None if domain.trivial else domain
        self.in_shape = self.out_shape = domain.event_shape

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        steps = functional.softplus(z[..., 1:], threshold=40.0)
        x = torch.cat([z[..., :1], steps], dim=-1).cumsum(-1)
        return x, sum_event(functional.logsigmoid(z[..., 1:]), 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        free = softplus_inverse(x[..., 1:] - x[..., :-1])
        return torch.cat([x[..., :1], free], dim=-1), -sum_event(functional.logsigmoid(free), 1)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v: the steps' slopes taken out, then the differences that undo running sums."""
        x, log_det = self._forward(z, None, None)

        def solve(v: Tensor) -> Tensor:
            steps = torch.cat([v[..., :1], v[..., 1:] * (1 + torch.exp(-z[..., 1:]))], dim=-1)
            return steps - functional.pad(steps[..., 1:], (0, 1))

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToOrdered]]:
        yield "three", cls(3)
        yield "one", cls(1)
