"""The equation that a continuous flow solves: place, log_det and running costs, or the score carried along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.bijectors._flow_rows import Rows
from flowkit.bijectors._scores import gradient
from flowkit.core.shapes import Context
from flowkit.core.vector_field import VectorField
from flowkit.numerics.divergence import field_and_divergence, velocity_and_products
from flowkit.numerics.ode import Stats

Running = Callable[[Tensor, Tensor, Any, Tensor, "Tensor | None"], Tensor]


class Transport(NamedTuple):
    """Where the field carries a batch.

    Args:
        value: (*B, *event), or (T, *B, *event) at several times.
        log_det: (*B), or (T, *B); zero where it was not asked for.
        integrals: of the running costs along the way, (*B, m) or None.
        stats: what the solver took.
        probes: the directions of the divergence's estimate (*B, S, *event), or None.
    """

    value: Tensor
    log_det: Tensor
    integrals: Tensor | None
    stats: Stats
    probes: Tensor | None


class Slopes:
    """The augmented equation: place, log_det and running costs.

    Args:
        field, rows: the field and the batch.
        mode: how the divergence is found, "none" for not at all.
        sign: +1 where time runs forward; running costs count time as passing forward.
        running, products: as for ``transport``.
        probed: the last constant is the probes.
    """

    def __init__(self, field: VectorField, rows: Rows, mode: str, sign: float, running: Running | None, products: bool, probed: bool) -> None:
        self.field, self.rows, self.mode, self.sign = field, rows, mode, sign
        self.running, self.products, self.probed = running, products, probed

    def __call__(self, t: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        # constants come last: those of the context, then the probes
        constants = len(self.rows.parts) + self.probed
        parts = rest[len(rest) - constants :] if constants else ()
        probes = parts[-1] if self.probed else None
        context = self.rows.context(parts[: len(self.rows.parts)])
        found, pulled = self._velocity(t, x, context, probes)
        if self.running is None:
            return found
        return (*found, self.sign * self.running(t, x, context, found[0], pulled))

    def _velocity(self, t: Tensor, x: Tensor, context: Context, probes: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor | None]:
        if self.mode == "none":
            return (self.field.velocity(t, x, context).to(x.dtype),), None  # autocast would lower it
        if self.products:
            assert probes is not None
            rank = len(self.field.event_shape)
            v, divergence, pulled = velocity_and_products(lambda y: self.field.velocity(t, y, context), x, rank, probes.movedim(1, 0))
            return (v, divergence.to(v.dtype)), pulled
        v, divergence = field_and_divergence(self.field, t, x, context, mode=self.mode, probes=probes)
        return (v, divergence.to(v.dtype)), None

    def costs(self, x: Tensor, times: Any, probes: Tensor | None) -> Tensor | None:
        """Zeros for the running costs (R, m), whose number one evaluation shows."""
        if self.running is None:
            return None
        with torch.no_grad():
            t = torch.as_tensor(times[0], dtype=x.dtype, device=x.device).expand(len(x))
            context = self.rows.context(self.rows.parts)
            found, pulled = self._velocity(t, x, context, probes)
            shape = self.running(t, x, context, found[0], pulled).shape
        return x.new_zeros(shape)


class ScoreSlopes:
    """Place, log_det and score s of the density carried along: dx/dt = v, d log_det/dt = div v, ds/dt = -(dv/dx)' s - grad div v.

    One product with the derivative of s.v + div v, whichever way the divergence is found; an estimate keeps its probes, so the score is
    that of the same estimate. Holds in both directions of time.

    Args:
        slopes: of place and log_det.

    Reference: Vaitl, Nicoli, Nakajima and Kessel (2022), Path-gradient estimators for continuous normalizing flows, arXiv:2206.09016.
    """

    def __init__(self, slopes: Slopes) -> None:
        self.slopes = slopes

    def __call__(self, t: Tensor, x: Tensor, log_det: Tensor, score: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            v, divergence = self.slopes(t, point, log_det, *constants)
            falls = gradient((v * score).flatten(1).sum(1) + divergence, point)
        return v.detach(), divergence.detach(), -falls
