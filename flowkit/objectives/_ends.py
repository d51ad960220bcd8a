"""What objectives of continuous flows start from: noise at time 0, data at time 1, both in the space of the velocity field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch
from flowkit.core.shapes import mask_event
from flowkit.core.vector_field import VectorField


class Ends(NamedTuple):
    """Both ends of the paths of a batch.

    Attributes:
        x0: noise (B, *event). x1: data (B, *event).
    """

    x0: Tensor
    x1: Tensor


def continuous_flow(model: nn.Module, who: str, *, needs: str = "velocity", build: str = "flows.ContinuousFlow") -> Any:
    """The model, once it is seen to be a continuous flow over times 0 to 1 whose field has the method that is needed.

    Raises:
        ConfigError: it is not; its time span is another (a learned span is looked at eagerly on the CPU).
    """
    field = getattr(model, "field", None)
    if not (isinstance(field, VectorField) and hasattr(model, "endpoint") and isinstance(getattr(model, "base", None), Distribution)):
        raise ConfigError(f"{who}: expected a continuous flow, with field, base and endpoint(); got {type(model).__name__}. Use {build}.")
    if not hasattr(field, needs):
        raise ConfigError(f"{who}: expected a field with {needs}(); got {type(field).__name__}. Use {build}.")
    bijector = getattr(model, "bijector", None)
    time_span = getattr(bijector, "time_span", None)
    if time_span is not None:
        duration = float(time_span) if may_raise(time_span) else bijector.duration  # type: ignore[union-attr]
        if duration != 1:
            raise ConfigError(f"{who}: expected a flow of duration 1, as paths run from t = 0 to 1; got {duration:.6g}. Use ContinuousLikelihood there.")
    return model


def ends_of(flow: Any, batch: Batch, generator: torch.Generator | None, who: str) -> Ends:
    """Independent pairs: the batch pulled back into field space, and as many draws of the base.

    Raises:
        ConfigError: the batch has no data.
    """
    if batch.x is None:
        raise ConfigError(f"{who}: expected a batch of data; got none. Pass the source to fit.")
    x1 = flow.endpoint(batch.x, batch.context)
    return Ends(base_draws(flow, len(x1), batch.context, generator).to(x1), x1)


def base_draws(flow: Any, n: int, context: Any, generator: torch.Generator | None) -> Tensor:
    """n draws of the law at time 0: (n, *event)."""
    base = flow.base
    if base.context_shape is not None:
        return base.sample((), flow.embed_context(context), generator)  # type: ignore[no-any-return]
    return base.sample(n, generator=generator)  # type: ignore[no-any-return]


def uniform_times(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Times on [0, 1), one a row: (B)."""
    return torch.rand(len(like), generator=generator, dtype=like.dtype, device=like.device)


def over_event(t: Tensor, x: Tensor) -> Tensor:
    """A number for each row, with axes of size one for the event: (B) -> (B, 1, ...)."""
    return mask_event(t, x.dim() - t.dim())


def on_line(t: Tensor, ends: Ends) -> Tensor:
    """(1 - t) x0 + t x1: (B, *event)."""
    return torch.lerp(ends.x0, ends.x1, over_event(t, ends.x0))


def squares(x: Tensor) -> Tensor:
    """Squared norm of every row: (B, *event) -> (B)."""
    return x.flatten(1).square().sum(1)


def batch_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean over rows, weighted where the batch carries weights: (B) -> ()."""
    weight = batch.extra.get("weight")
    return values.mean() if weight is None else (weight * values).mean()


def map_parts(context: Any, call: Callable[[Tensor], Tensor]) -> Any:
    """The same call on a context, or on each of its parts."""
    if context is None:
        return None
    return {key: call(part) for key, part in context.items()} if isinstance(context, dict) else call(context)
