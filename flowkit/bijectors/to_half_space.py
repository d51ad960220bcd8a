"""From R^n onto a half-space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_forward_solved
from flowkit.core.domain.half_space import HalfSpace
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.activations import softplus_inverse


@BIJECTORS.register("to_half_space")
class ToHalfSpace(Bijector):
    """R^n onto {normal . x < offset}: the coordinate a along the unit normal becomes c - softplus(-a), the rest stays.

    Args:
        normal, offset: as for ``HalfSpace``; c = offset / |normal|.
    """

    traits = Traits(score="closed")

    def __init__(self, normal: Sequence[float] | Tensor, offset: float = 0.0) -> None:
        super().__init__()
        self.normal, self.offset = normal, offset
        self._codomain: HalfSpace = HalfSpace(normal, offset)
        self.in_shape = self.out_shape = self._codomain.event_shape

    def _unit(self) -> tuple[Tensor, Tensor]:
        """Unit normal and distance of the edge, in the module's own precision."""
        normal = self._codomain.normal_buffer
        length = torch.linalg.vector_norm(normal)
        return normal / length, self.offset / length

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        unit, edge = self._unit()
        along = (z * unit).sum(-1)
        # a few rounding units of depth, so that no point comes to lie outside when its coordinates are rounded
        margin = 8 * torch.finfo(z.dtype).eps * (edge.abs() + z.abs().sum(-1))
        moved = edge - functional.softplus(-along) - margin.detach()
        return z + (moved - along).unsqueeze(-1) * unit, sum_event(functional.logsigmoid(-along), 0)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        unit, edge = self._unit()
        moved = (x * unit).sum(-1)
        along = -softplus_inverse(edge - moved)
        return x + (along - moved).unsqueeze(-1) * unit, -sum_event(functional.logsigmoid(-along), 0)

    _carry = carry_forward_solved

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v: J stretches by sigmoid(-a) along the normal, and nothing else."""
        x, log_det = self._forward(z, None, None)

        def solve(v: Tensor) -> Tensor:
            unit, _ = self._unit()
            return v + unit * torch.exp((z * unit).sum(-1, keepdim=True)) * (v * unit).sum(-1, keepdim=True)  # 1 / sigmoid(-a) - 1 = exp(a)

        return x, log_det, solve

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToHalfSpace]]:
        yield "tilted", cls([1.0, 2.0], 0.5)
