"""The flow of a tangent velocity field from time 0 to 1, as a bijector of its manifold."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._flow_rows import Rows
from flowkit.core.domain import Manifold
from flowkit.core.shapes import Context
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.core.vector_field import VectorField
from flowkit.numerics.manifold_ode import Transported, controlled_transport, transport


class ManifoldMap(Bijector):
    """z at time 0 to x at time 1 along dx/dt = u(t, x); log_det is counted in the volume of the manifold.

    Args:
        field: the velocity, tangent to the manifold.
        manifold: that it lives on.
        solver, steps, rtol, atol: see ``RiemannianFlow``.
    """

    def __init__(self, field: VectorField, manifold: Manifold, solver: str, steps: int | None, rtol: float, atol: float) -> None:
        super().__init__()
        self.field, self.manifold, self.solver, self.steps, self.rtol, self.atol = field, manifold, solver, steps, rtol, atol
        self.in_shape = self.out_shape = tuple(manifold.event_shape)
        self.context_shape = field.context_shape
        self._domain = self._codomain = manifold
        # equal steps retrace themselves up to an error that nobody knows beforehand; what is declared holds for smooth fields
        wide = 100 * max(rtol, atol) if steps is None else 1e-5
        self.traits = Traits(inverse="iterative", compiles=False, vmaps=False, tolerance={torch.float64: wide, torch.float32: wide + 1e-4})

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.carried(z, context, 0.0, 1.0)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.carried(x, context, 1.0, 0.0)

    def move(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Where points go, without the divergence."""
        value, context = self._prepare(value, context, inverse)
        return self.carried(value, context, *((1.0, 0.0) if inverse else (0.0, 1.0)), log_det=False).x

    def carried(self, x: Tensor, context: Context, start: float = 0.0, end: float = 1.0, *, log_det: bool = True) -> Transported:
        """Points carried from one time to another; a part of the whole time takes its share of the steps."""
        rows = Rows(x, self.manifold.event_shape, context, self.context_shape)

        def velocity(t: Tensor, point: Tensor, *parts: Tensor) -> Tensor:
            return self.field.velocity(t, point, rows.context(parts))

        if self.steps is None:
            tolerances: Any = {"rtol": self.rtol, "atol": self.atol, "params": tuple(self.field.parameters())}
            done = controlled_transport(velocity, self.manifold, rows.value, start, end, args=rows.parts, scheme=self.solver, log_det=log_det, **tolerances)
        else:
            steps = max(1, math.ceil(self.steps * abs(end - start) - 1e-9))
            done = transport(velocity, self.manifold, rows.value, start, end, args=rows.parts, scheme=self.solver, steps=steps, log_det=log_det)
        return Transported(rows.restore(done.x), rows.restore_rows(done.log_det, 0))
