"""Continuous flows whose whole trajectory one kernel follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._flow_rows import Rows
from flowkit.core.checks import may_raise
from flowkit.core.shapes import Context
from flowkit.kernels.mlp_trajectory import mlp_trajectory
from flowkit.numerics.ode import Stats
from flowkit.numerics.ode.failures import DONE

_NAMES = ("W1", "b1", "r1", "W2", "b2", "r2", "W3", "b3", "r3", "gates")


def fused_transport(bijector: Any, rows: Rows, context: Context, times: Tensor, *, log_det: bool) -> tuple[Tensor, Tensor, Stats] | None:
    """Places (R, d), log_dets (R,) and counts from ``kernels.mlp_trajectory``, or None where it cannot serve or a sample failed.

    Args:
        bijector: a ``Continuous``, whose options apply.
        rows: the batch; context: in rows; times: the two ends (2,).
        log_det: whether to integrate the divergence, exactly.
    """
    describe = getattr(bijector.field, "trajectory_weights", None)
    if describe is None or bijector.adjoint != "discrete" or (bijector.steps is None and not bijector.per_sample):
        return None
    if len(bijector.field.event_shape) != 1 or times.requires_grad or torch.is_autocast_enabled(rows.value.device.type):
        return None
    weights = describe(context)
    if weights is None:
        return None
    start, end = times.tolist()
    tolerances = (float(bijector.rtol), float(bijector.atol)) if bijector.steps is None else (0.0, 0.0)
    args = (
        rows.value, *(weights[name] for name in _NAMES), start, end, bijector.solver, bijector.steps or 0, *tolerances,
        weights["activation"], log_det, bijector.max_steps,
    )  # fmt: skip
    if mlp_trajectory.reason(*args) is not None:
        return None
    place, tally, counts = mlp_trajectory(*args)
    nfe, accepted, rejected, status = counts.unbind(1)
    if not may_raise(rows.value):
        done = status == DONE
        place, tally = torch.where(done.unsqueeze(1), place, float("nan")), torch.where(done, tally, float("nan"))
    elif bool((status != DONE).any()):
        return None  # the plain solver fails in the same place and can say when
    return place, tally, Stats(nfe, accepted, rejected, torch.zeros_like(nfe), status, torch.full_like(tally, float("nan")))
