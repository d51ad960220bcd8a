"""The negative log-likelihood of a continuous flow with what its objectives need beside it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch
from flowkit.objectives._path_costs import PathCosts


class Followed(NamedTuple):
    """A batch followed back to the base.

    Args:
        log_prob: (B).
        latent: where it arrives (B, *event); integrals: of the costs (B, m) or None.
        probes: of the divergence's estimate, or None; context: embedded.
        evaluations: of the field, mean over the samples.
        span: the time that it was followed for, ().
    """

    log_prob: Tensor
    latent: Tensor
    integrals: Tensor | None
    probes: Tensor | None
    context: Any
    evaluations: Tensor
    span: Tensor


def check_continuous(model: nn.Module, who: str) -> Any:
    """The continuous map of a continuous flow."""
    bijector = getattr(model, "bijector", None)
    if getattr(bijector, "transport", None) is None or not hasattr(bijector, "time_span"):
        raise ConfigError(f"{who}: expected a continuous flow; got {type(model).__name__}. Train others with MaximumLikelihood.")
    return bijector


def follow(model: Any, batch: Batch, costs: PathCosts, span: Tensor | None, generator: torch.Generator | None) -> Followed:
    """Data to latent, over a time ``span`` () or the flow's own."""
    assert batch.x is not None
    bijector, context = model.bijector, model.embed_context(batch.context)
    x, log_det = batch.x, torch.zeros(len(batch.x), dtype=torch.promote_types(batch.x.dtype, torch.float32), device=batch.x.device)
    for step in reversed(model.maps[1:]):
        x, change = step.inverse(x)
        log_det = log_det + change
    times = None if span is None else torch.stack([torch.ones_like(span), 1 - span])
    running = partial(costs.at, bijector.field) if costs.names else None
    moved = bijector.transport(x, context, inverse=True, times=times, generator=generator, running=running, products=bool(costs.jacobian))
    value, change = (moved.value, moved.log_det) if times is None else (moved.value[-1], moved.log_det[-1])
    log_prob = model.base.log_prob(value, context if model.base.context_shape is not None else None) + change + log_det
    evaluations = torch.as_tensor(moved.stats.nfe, dtype=torch.float32).mean()
    return Followed(log_prob, value, moved.integrals, moved.probes, context, evaluations, bijector.time_span if span is None else span)
