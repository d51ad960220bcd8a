"""A flow with its context fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context
from flowkit.core.wrapped_flow import WrappedFlow


@FLOWS.register("conditioned")
class Conditioned(WrappedFlow):
    """``flow.condition(context)``: every call of ``flow`` with that context.

    Args:
        flow: a conditional flow.
        context: (*Bc, *context_shape), or a dict of parts; Bc broadcasts against batches and follows sample shapes.
    """

    def __init__(self, flow: Flow, context: Tensor | dict[str, Tensor]) -> None:
        Distribution.__init__(self)
        if flow.context_shape is None:
            raise ShapeError(f"{type(flow).__name__}.condition: the flow declares no context.")
        self.flow = flow
        self.event_shape, self.density = flow.event_shape, flow.density
        self.standardize, self._inner_context = flow.standardize, flow._inner_context
        self._support, self._whole = flow._support, flow._whole
        parts = context if isinstance(context, dict) else {"context": context}
        for key, value in parts.items():
            self.register_buffer(f"fixed_{key}", value.detach().clone())
        self._keys = tuple(parts) if isinstance(context, dict) else None
        flow.embed_context(self.context)

    @property
    def context(self) -> Any:
        """The fixed context."""
        if self._keys is None:
            return self.fixed_context
        return {key: getattr(self, f"fixed_{key}") for key in self._keys}

    def embed_context(self, context: Context) -> Context:
        self._refuse(context)
        return self.flow.embed_context(self.context)

    def rsample(self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        self._refuse(context)
        return self.flow.rsample(shape, self.context, generator, temperature)

    def sample_and_log_prob(
        self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        self._refuse(context)
        return self.flow.sample_and_log_prob(shape, self.context, generator, temperature)

    @staticmethod
    def _refuse(context: Context) -> None:
        if context is not None:
            raise ConfigError("Conditioned: the context is fixed; call the flow it was made from to pass another.")

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Conditioned]]:
        (_, flow), *_ = Flow.examples()
        flow = build(flow.describe(), Flow)
        yield "one_context", cls(flow, torch.tensor([0.1, -0.3, 0.5]))
