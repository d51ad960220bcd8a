"""The negative log-likelihood of a batch, by itself or as a forward Kullback-Leibler divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowkit.core.errors import ShapeError
from flowkit.core.objective import Batch, Loss


def negative_log_likelihood(model: nn.Module, batch: Batch, generator: torch.Generator | None) -> Loss:
    """-mean(w log q(x)), w the batch's weights or 1."""
    log_prob: Tensor = model.log_prob(batch.x, batch.context, generator=generator)  # type: ignore[operator]
    value = -weighted_mean(log_prob, batch)
    return Loss(value, {"nll": value.detach()})


def weighted_mean(each: Tensor, batch: Batch) -> Tensor:
    """mean(w each), w of mean 1 over the whole data; dividing by the batch's own sum would bias it. Rows of weight zero may be infinite."""
    weight = batch.extra.get("weight")
    if weight is not None and weight.shape != each.shape:
        raise ShapeError(f"Weights of a batch: expected one for each row, shape {tuple(each.shape)}; got {tuple(weight.shape)}. Flatten extra['weight'].")
    return each.mean() if weight is None else torch.where(weight == 0, 0.0, weight * each).mean()
