"""A flow seen as a ``torch.distributions.Distribution``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import constraints

from flowkit.core.shapes import Context, context_batch, expand_context

if TYPE_CHECKING:
    from flowkit.core.flow import Flow


class FlowView(TorchDistribution):
    """The flow at one context, with torch's own surface (usable in ``kl_divergence``, Pyro, ``Independent``).

    Args:
        flow: the flow; its parameters stay shared.
        context: (*Bc, *context_shape); Bc becomes the batch shape.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, flow: Flow, context: Context = None, *, batch: tuple[int, ...] | None = None) -> None:
        self.flow, self.context = flow, context
        flow.embed_context(context)
        own = context_batch(context, flow.context_shape)
        self._extra = tuple(batch)[: len(batch) - len(own)] if batch is not None else ()
        event = torch.Size(size if size is not None else 1 for size in flow.event_shape)
        super().__init__(torch.Size([*self._extra, *own]), event, validate_args=False)

    @property
    def support(self) -> Any:
        """Where the flow's density is positive."""
        return _Within(self.flow)

    def log_prob(self, value: Tensor) -> Tensor:
        log_prob = self.flow.log_prob(value, self.context)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.flow.rsample((*sample_shape, *self._extra), self.context)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.flow.sample((*sample_shape, *self._extra), self.context)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowView:
        own = context_batch(self.context, self.flow.context_shape)
        sizes = tuple(batch_shape)
        context = expand_context(self.context, self.flow.context_shape, sizes[len(sizes) - len(own) :])
        return FlowView(self.flow, context, batch=sizes)


class _Within(constraints.Constraint):
    """The flow's domain as a constraint."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._event = len(flow.event_shape)

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        return self._event

    def check(self, value: Tensor) -> Tensor:
        return self.flow.domain.contains(value)
