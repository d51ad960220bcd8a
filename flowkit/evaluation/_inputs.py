"""What the metrics share: samples as rows, log-densities in parts, the model in evaluation mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.shapes import Context


def log_prob_of(flow: Distribution, x: Tensor, context: Context, batch_size: int, generator: torch.Generator | None, who: str) -> Tensor:
    """Log-densities, a flow's in parts of ``batch_size``; refuses a model whose log_prob is no tensor."""
    options: dict[str, Any] = {"generator": generator, "batch_size": batch_size} if isinstance(flow, Flow) else {}
    log_prob = flow.log_prob(x, context, **options)
    if not isinstance(log_prob, Tensor):
        raise ConfigError(f"{who}: expected a density in the data space; {type(flow).__name__}.log_prob gives {type(log_prob).__name__}. Use another metric.")
    return log_prob


def rows_of(x: Tensor, who: str) -> Tensor:
    """Samples (N, *event), N at least 2, as finite rows (N, D) of float32 at least."""
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) < 2:
        raise ShapeError(f"{who}: expected at least 2 samples, a tensor (N, *event); got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}.")
    rows = x.detach().reshape(len(x), -1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if not bool(torch.isfinite(rows).all()):
        raise NonFiniteError(f"{who}: expected finite samples; got NaN or infinity. Look at the rows where torch.isfinite is False.")
    return rows


def pair_of(x: Tensor, y: Tensor, who: str) -> tuple[Tensor, Tensor]:
    """Two sets of samples as rows of the same length, dtype and device."""
    first, second = rows_of(x, who), rows_of(y, who)
    if x.shape[1:] != y.shape[1:]:
        raise ShapeError(f"{who}: expected samples of one event shape; got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}.")
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(device=first.device, dtype=dtype)
