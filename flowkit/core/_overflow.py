"""Densities of events that the maps of a flow take beyond the numbers of the dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowkit.core._rows import reachable
from flowkit.core.checks import may_raise
from flowkit.core.layers import layers
from flowkit.core.shapes import Context, mask_event, sum_event

if TYPE_CHECKING:
    from flowkit.core.flow import Flow


def without_overflow(density: Callable[[Tensor], Tensor], flow: Flow, x: Tensor, context: Context) -> Tensor:
    """``density(x)``, with minus infinity in place of the NaN of events whose latents overflow between two maps.

    Infinity in a latent means a density below the numbers of the dtype, but later maps make infinity minus infinity of it. NaN that
    arises otherwise, from parameters or a context, stays: it is a fault to be seen. Nothing is looked at, and NaN stays too, where
    values cannot be (``checks.may_raise``) and where a map draws, which cannot be gone through twice.

    Args:
        density: log-density of events (*B, *event) -> (*B) in the context given.
        flow: its maps.
        x: (*B, *event); context: as the maps see it.
    """
    log_prob = density(x)
    if not may_raise(x) or log_prob.detach().sum().item() < torch.inf:  # false as soon as one is NaN
        return log_prob
    steps = [step for _, step in reversed(layers(flow))]
    if any(step.traits.stochastic for step in steps):
        return log_prob
    _, z = flow.domain.split(x)
    far = torch.zeros_like(log_prob, dtype=torch.bool)
    with torch.no_grad():
        for step in steps:
            z = step.masked(z, None if step.context_shape is None else context, inverse=True)[0]
            rank = len(step.in_shape)
            far = far | (sum_event(z * z, rank) == torch.inf)
            _, z = reachable(z, step.in_shape)
    lost = far & ~(log_prob.detach() < torch.inf)
    if not bool(lost.any()):
        return log_prob
    again = density(torch.where(mask_event(lost, len(flow.event_shape)), flow.domain.safe_point(x), x))  # so gradients do not meet infinity
    return torch.where(lost, torch.full_like(again, -torch.inf), again)
