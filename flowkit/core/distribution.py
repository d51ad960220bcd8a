"""The contract of distributions: log-density, samples and score under one context rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowkit.core.build.describe import brief_arguments
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.real import Real
from flowkit.core.errors import NotInvertibleError
from flowkit.core.inference_mode import outside_inference
from flowkit.core.registry import DISTRIBUTIONS, FLOWS, Registry
from flowkit.core.shapes import (
    Context,
    ContextShape,
    Shape,
    broadcast_batch,
    check_context,
    check_event,
    check_temperature,
    context_batch,
    expand_context,
    sample_shape,
)


class Distribution(nn.Module):
    """A density that can be evaluated and, usually, sampled.

    Implement ``_log_prob(x, context)`` and ``_rsample(shape, context, generator, temperature)``; set ``event_shape``
    (and ``context_shape``, ``_support``). ``sample`` draws without a graph; ``rsample`` keeps it. Calling a
    distribution evaluates ``log_prob``. Any distribution is a target: ``log_density`` is ``log_prob``.

    Attributes:
        event_shape: shape of one event.
        context_shape: event shape of the context, or None.
        reparametrized: whether ``rsample`` is differentiable in the parameters.
    """

    registries: ClassVar[tuple[Registry, ...]] = (DISTRIBUTIONS, FLOWS)
    event_shape: Shape
    context_shape: ContextShape = None
    reparametrized: bool = True
    log_normalizer: float = 0.0
    invariances: frozenset[str] = frozenset()
    can_sample: bool = True
    like: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._support: Domain | None = None
        self.register_buffer("like", torch.zeros(()), persistent=False)  # carries dtype and device for drawing

    @property
    def support(self) -> Domain | None:
        """Where the density is positive; None for all of R^n."""
        return self._support

    @property
    def domain(self) -> Domain:
        """Where the density is positive, always as a domain."""
        return Real(self.event_shape) if self._support is None else self._support

    @property
    def who(self) -> str:
        """The name this distribution goes by in messages."""
        return type(self).__name__

    def log_prob(self, x: Tensor, context: Context = None) -> Tensor:
        """Log-density; minus infinity outside the support.

        Args:
            x: (*B, *event); context: (*Bc, *context_shape), broadcast against B.

        Returns:
            (*B) in nats, float32 at least.
        """
        who = f"{self.who}.log_prob"
        check_event(x, self.event_shape, who)
        check_context(context, self.context_shape, who)
        if context is not None:
            x = broadcast_batch(x, self.event_shape, context, self.context_shape, who)
            context = expand_context(context, self.context_shape, x.shape[: x.dim() - len(self.event_shape)])
        if self._support is None:
            return self._log_prob(x, context)
        inside, x = self._support.split(x)
        log_prob = self._log_prob(x, context)
        return torch.where(inside, log_prob, torch.full_like(log_prob, -torch.inf))

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return self.log_prob(x, context)

    def log_density(self, x: Tensor, context: Context = None) -> Tensor:
        """``log_prob``, by the name targets use."""
        return self.log_prob(x, context)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        raise NotImplementedError(f"{self.who} defines no _log_prob.")

    def log_prob_under(self, transform: Any, y: Tensor, context: Context, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        """Log-density of what a map generates from here, log p(f^-1(y)) + log_det (*B), and ``inside``, as from ``Transform.masked``."""
        z, log_det, inside = transform.masked(y, None if transform.context_shape is None else context, inverse=True, generator=generator)
        return self.log_prob(z, None if self.context_shape is None else context) + log_det, inside

    def sample(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw events, detached from the parameters: (*shape, *Bc, *event)."""
        with torch.no_grad():
            return self.rsample(shape, context, generator, temperature)

    def rsample(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw events, differentiable in the parameters where ``reparametrized``: (*shape, *Bc, *event)."""
        check_temperature(temperature, f"{self.who}.sample")
        drawn, context = self._draw_shape(shape, context, "sample")
        return self._rsample(drawn, context, generator, float(temperature))

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        raise NotInvertibleError(f"{self.who}: cannot be sampled.")

    def _draw_shape(self, shape: int | tuple[int, ...], context: Context, call: str) -> tuple[tuple[int, ...], Context]:
        """The whole batch shape to draw, and the context expanded to it."""
        check_context(context, self.context_shape, f"{self.who}.{call}")
        drawn = (*sample_shape(shape, f"{self.who}.{call}"), *context_batch(context, self.context_shape))
        return drawn, expand_context(context, self.context_shape, drawn)

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        """Gradient of the log-density in x: (*B, *event) -> (*broadcast(B, Bc), *event)."""
        x = broadcast_batch(x, self.event_shape, context, self.context_shape, f"{self.who}.score")
        return outside_inference(f"{self.who}.score", self._differentiated, x, context)  # type: ignore[no-any-return]

    def _differentiated(self, x: Tensor, context: Context) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prob(x, context).sum(), x)
        return gradient

    def describe(self) -> dict[str, Any]:
        """``{name: <registered>, **arguments}``."""
        from flowkit.core.build import describe

        return describe(self)

    def extra_repr(self) -> str:
        return brief_arguments(self)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Distribution]]:
        """Small labelled instances."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
