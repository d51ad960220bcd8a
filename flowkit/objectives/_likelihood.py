"""The negative log-likelihood of a batch, by itself or as a forward Kullback-Leibler divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowkit.core.objective import Batch, Loss


def negative_log_likelihood(model: nn.Module, batch: Batch, generator: torch.Generator | None) -> Loss:
    """-mean(w log q(x)), w the batch's weights or 1."""
    log_prob: Tensor = model.log_prob(batch.x, batch.context, generator=generator)  # type: ignore[operator]
    value = -weighted_mean(log_prob, batch)
    return Loss(value, {"nll": value.detach()})


def weighted_mean(each: Tensor, batch: Batch) -> Tensor:
    """mean(w each), w of mean 1 over the whole data; dividing by the batch's own sum would bias it."""
    weight = batch.extra.get("weight")
    return each.mean() if weight is None else (weight * each).mean()
