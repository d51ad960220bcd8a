"""A flow seen as a ``torch.distributions.Distribution``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import constraints

from flowkit.core.shapes import Context, context_batch

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

    def __init__(self, flow: Flow, context: Context = None) -> None:
        self.flow, self.context = flow, context
        flow.embed_context(context)
        event = torch.Size(size if size is not None else 1 for size in flow.event_shape)
        super().__init__(context_batch(context, flow.context_shape), event, validate_args=False)

    @property
    def support(self) -> Any:
        """Real vectors; a flow with ``support=`` checks its own values."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.flow.log_prob(value, self.context)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.flow.rsample(tuple(sample_shape), self.context)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.flow.sample(tuple(sample_shape), self.context)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowView:
        from flowkit.core.shapes import expand_context

        return FlowView(self.flow, expand_context(self.context, self.flow.context_shape, tuple(batch_shape)))
