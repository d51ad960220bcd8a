"""A flow: a base distribution pushed through a bijector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowkit.core._context_shapes import context_shapes
from flowkit.core._initialisation import steps_to_initialize
from flowkit.core._overflow import without_overflow
from flowkit.core._rows import in_chunks, reachable
from flowkit.core._scores import carry_all, check_carries
from flowkit.core._summary import summary
from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.real import Real
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.flow_view import FlowView
from flowkit.core.registry import FLOWS, Registry
from flowkit.core.shapes import (
    Context,
    Shape,
    check_context,
    check_event,
    check_temperature,
    context_batch,
    expand_context,
    flag,
    sample_shape,
    show,
    unify,
    zeros_log_det,
)
from flowkit.core.surjection import Surjection
from flowkit.core.traits import LogDet
from flowkit.core.transform import Bijector

Density = Literal["exact", "estimate", "lower_bound", "manifold"]
_DENSITIES: dict[LogDet, Density] = {"exact": "exact", "estimate": "estimate", "bound": "lower_bound", "volume": "manifold"}


@FLOWS.register("flow")
class Flow(Distribution):
    """Density of x = f(z), z from the base: log p(x) = log p_z(f^-1(x)) + log|det d f^-1 / dx|.

    From latent to data the maps are ``bijector``, then ``Standardize`` (if ``standardize``), then a map onto
    ``support`` (if given); all are counted in ``log_prob``. An embedding net is run once per distinct context.

    ``density`` says what ``log_prob`` is: "exact", an unbiased "estimate", or a "lower_bound" (a part draws in its inverse).

    Args:
        base: distribution of z.
        bijector: latent to data, a bijector or a surjection; its ``forward`` generates.
        support: a domain; samples never leave it and ``log_prob`` is minus infinity outside.
        standardize: put a ``Standardize`` map last, which ``fit`` sets from the training data.
        embed: net applied to the context before the bijector and a conditional base see it.
        context_shape: event shape of the raw context, when ``embed`` changes it; ``()`` with int64 labels for classes.

    Raises:
        ShapeError: base, bijector and support do not fit together.

    Example:
        >>> import torch, flowkit as fk
        >>> flow = fk.Flow(fk.distributions.StandardNormal((2,)), fk.bijectors.Affine(shape=(2,), loc=1.0))
        >>> flow.log_prob(torch.ones(2)).item()
        -1.8378770351409912
    """

    registries: ClassVar[tuple[Registry, ...]] = (FLOWS,)
    density: Density = "exact"

    def __init__(
        self,
        base: Distribution,
        bijector: Bijector | Surjection,
        support: Domain | None = None,
        *,
        standardize: bool = False,
        embed: nn.Module | None = None,
        context_shape: Sequence[int | None] | Mapping[str, Sequence[int | None]] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(base, Distribution):
            raise ConfigError(f"{self.who}: expected a flowkit distribution as base; got {type(base).__name__}. Wrap others in TorchDistribution.")
        if not isinstance(bijector, Bijector | Surjection):
            raise ConfigError(f"{self.who}: expected a bijector or a surjection; got {type(bijector).__name__}.")
        if unify(base.event_shape, bijector.in_shape) is None:
            raise ShapeError(f"{self.who}: base has event shape {show(base.event_shape)}, bijector expects {show(bijector.in_shape)}.")
        self.base, self.bijector = base, bijector
        self.density = _DENSITIES[bijector.traits.log_det]
        self._place(support, standardize)
        self.embed = embed
        self._inner_context, self.context_shape = context_shapes(self.bijector, self.base, self.embed, context_shape, self.who)

    def _place(self, support: Domain | None, standardize: bool) -> None:
        """Add the maps between the bijector and the data."""
        shape = unify(self.base.event_shape, self.bijector.in_shape)
        assert shape is not None
        self.event_shape = self.bijector.out_shape if self.bijector.in_shape != self.bijector.out_shape else shape
        self.standardize = flag(standardize, self.who, "standardize")
        self.standardizer: Any = build({"name": "standardize", "shape": self.event_shape}, Bijector) if standardize else None
        if support is not None and not isinstance(support, Domain):
            raise ConfigError(f"{self.who}: expected support to be a domain or None; got {support!r}. Pass e.g. Box(0.0, 1.0, {self.event_shape[-1:]}).")
        onto = support.support_map() if support is not None else None
        self._support = support
        self._whole = support if support is not None else Real(self.event_shape)
        self.support_map: Bijector | None = build(onto, Bijector) if onto is not None else None
        if support is not None and unify(support.event_shape, self.event_shape) is None:
            raise ShapeError(f"{self.who}: support has event shape {show(support.event_shape)}, the data {show(self.event_shape)}.")

    @property
    def embedding(self) -> nn.Module | None:
        """The net that turns a raw context into what the maps see, or None."""
        return self.embed

    @property
    def domain(self) -> Domain:
        if self._support is not None:
            return self._support
        return self.bijector.codomain if self.standardizer is None else Real(self.event_shape)

    # -- the maps in order --------------------------------------------------------------------------------------

    @property
    def maps(self) -> tuple[Bijector | Surjection, ...]:
        """The maps from latent to data, in order."""
        return tuple(step for step in (self.bijector, self.standardizer, self.support_map) if step is not None)

    def embed_context(self, context: Context) -> Context:
        """The context as the bijector sees it: checked, and embedded once per distinct context."""
        check_context(context, self.context_shape, self.who)
        return context if self.embedding is None or context is None else self.embedding(context)

    def _context_for(self, part: Any, context: Context) -> Context:
        return None if part.context_shape is None else context

    def _check_values(self, value: Tensor, event: Shape, call: str) -> None:
        who = f"{self.who}.{call}"
        check_event(value, event, who)
        own = next((p.dtype for p in self.parameters()), value.dtype)
        if value.dtype != own and not torch.is_autocast_enabled(value.device.type):
            raise ShapeError(f"{who}: expected {own}, the flow's dtype; got {value.dtype}. Convert the input, or the flow with .to({value.dtype}).")

    # -- density ------------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None, batch_size: int | None = None) -> Tensor:
        """Log-density in nats.

        Args:
            x: (*B, *event); context: (*Bc, *context_shape), broadcast against B.
            generator: for maps that draw.
            batch_size: evaluate this many events at a time and join the results (for large inputs under ``no_grad``).

        Returns:
            (*B), float32 at least; minus infinity where x is outside the support or not finite, or a latent overflows (eager on the CPU; else NaN).
        """
        self._check_values(x, self.event_shape, "log_prob")
        context = self.embed_context(context)
        if batch_size is not None:
            return in_chunks(lambda part, c: self._density(part, c, generator), x, self.event_shape, context, self._inner_context, batch_size, self.who)
        return self._density(x, context, generator)

    def _density(self, x: Tensor, context: Context, generator: torch.Generator | None) -> Tensor:
        return without_overflow(lambda x: self._density_at(x, context, generator), self, x, context)

    def _density_at(self, x: Tensor, context: Context, generator: torch.Generator | None) -> Tensor:
        inside, z = self._whole.split(x)
        total = zeros_log_det(x, self.event_shape)
        for step in reversed(self.maps[1:]):
            z, log_det, within = step.masked(z, self._context_for(step, context), inverse=True, generator=generator)
            total = total + log_det
            inside = inside if within is None else inside & within
        near, z = reachable(z, self.bijector.out_shape)
        log_prob, within = self.base.log_prob_under(self.bijector, z, context, generator)
        inside = inside & near if within is None else inside & near & within
        return torch.where(inside, log_prob + total, torch.full_like(log_prob, -torch.inf))

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return self.log_prob(x, context)

    def to_latent(self, x: Tensor, context: Context = None, *, generator: torch.Generator | None = None, batch_size: int | None = None) -> Tensor:
        """Data to latent: (*B, *event) -> (*B, *latent event). Raises DomainError outside the support (eager on the CPU)."""
        self._check_values(x, self.event_shape, "to_latent")
        context = self.embed_context(context)
        if self._support is not None and may_raise(x):
            self._support.check(x, f"{self.who}.to_latent")
        if batch_size is not None:
            return in_chunks(
                lambda part, c: self._move(part, c, generator, inverse=True), x, self.event_shape, context, self._inner_context, batch_size, self.who
            )
        return self._move(x, context, generator, inverse=True)

    def _move(self, value: Tensor, context: Context, generator: torch.Generator | None, *, inverse: bool = False) -> Tensor:
        for step in reversed(self.maps) if inverse else self.maps:
            value = step.move(value, self._context_for(step, context), inverse=inverse, generator=generator)
        return value

    def to_data(self, z: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Latent to data: (*B, *latent event) -> (*B, *event)."""
        self._check_values(z, self.base.event_shape, "to_data")
        return self._move(z, self.embed_context(context), generator)

    def _generate(self, z: Tensor, context: Context, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, total = z, zeros_log_det(z, self.base.event_shape)
        for step in self.maps:
            x, log_det = step(x, self._context_for(step, context), generator=generator)
            total = total + log_det
        return x, total

    # -- samples ------------------------------------------------------------------------------------------------

    def rsample(self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None, temperature: float = 1.0) -> Tensor:
        """Samples (*shape, *Bc, *event), differentiable in the parameters."""
        z, context = self._draw_latent(shape, context, generator, temperature)
        return self._move(z, context, generator)

    def sample_and_log_prob(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Samples and their log-density from one pass, differentiable in the parameters.

        For a "lower_bound" log_prob is that of the path drawn: unbiased in importance weights, and an upper bound in a reverse KL.

        Returns:
            x (*shape, *Bc, *event) and log_prob (*shape, *Bc): the flow's own density at x, whatever the temperature.
        """
        z, context = self._draw_latent(shape, context, generator, temperature)
        x, log_det = self._generate(z, context, generator)
        return x, self.base.log_prob(z, self._context_for(self.base, context)) - log_det

    def sample_and_score(
        self, shape: int | tuple[int, ...] = (), context: Context = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, their log-density and its gradient in the sample from one pass: what path gradients are made of.

        Returns:
            x and log_prob as from ``sample_and_log_prob``, and grad_x log_prob (*shape, *Bc, *event), a constant.

        Raises:
            ConfigError: a map has no score: it draws, or is no bijector.
        """
        check_carries(self.maps, f"{self.who}.sample_and_score")
        z, context = self._draw_latent(shape, context, generator, 1.0)
        own = self._context_for(self.base, context)
        start, context_for = self.base.score(z.detach(), own), lambda step: self._context_for(step, context)
        x, log_det, score = carry_all(self.maps, z, self.base.event_shape, start, context_for, generator, inverse=False)
        return x, self.base.log_prob(z, own) - log_det, score

    def pull_score(self, x: Tensor, score: Tensor, context: Context = None, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Data, and a score there, carried to the latent side: z, log_det of the inverse (*B), and the score at z, a constant.

        Args:
            x: (*B, *event); score: gradient of some log-density at x, same shape.
        """
        check_carries(self.maps, f"{self.who}.pull_score")
        self._check_values(x, self.event_shape, "pull_score")
        context = self.embed_context(context)
        return carry_all(self.maps[::-1], x, self.event_shape, score, lambda step: self._context_for(step, context), generator, inverse=True)

    def _draw_latent(self, shape: int | tuple[int, ...], context: Context, generator: torch.Generator | None, temperature: float) -> tuple[Tensor, Context]:
        """Latents for every sample, and the embedded context expanded to them."""
        check_temperature(temperature, f"{self.who}.sample")
        context = self.embed_context(context)
        sizes = (*sample_shape(shape, f"{self.who}.sample"), *context_batch(context, self._inner_context))
        context = expand_context(context, self._inner_context, sizes)
        if self.base.context_shape is not None:
            return self.base.rsample((), context, generator, temperature), context
        return self.base.rsample(sizes, None, generator, temperature), context

    # -- views --------------------------------------------------------------------------------------------------

    def condition(self, context: Context) -> Flow:
        """This flow with its context fixed: the same surface, without the argument ``context``."""
        from flowkit.core.conditioned import Conditioned

        if context is None:
            raise ShapeError(f"{self.who}.condition: expected a context; got none.")
        return Conditioned(self, dict(context) if isinstance(context, Mapping) else context)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``flow(context)``: a ``torch.distributions.Distribution`` for that context (``flow()`` without one)."""
        return FlowView(self, *args, **kwargs)

    def initialize(self, x: Tensor, context: Context = None) -> None:
        """Set data-dependent state (ActNorm) from a batch of data; ``fit`` calls this once."""
        context = self.embed_context(context)
        with torch.no_grad():
            for step in steps_to_initialize(self):
                x = step.initialize(x, self._context_for(step, context), inverse=True)

    def set_standardizer(self, chunks: Iterable[Tensor]) -> None:
        """Set the ``Standardize`` map, if there is one, from the training data in chunks (N, *event); ``fit`` calls this once."""
        if self.standardizer is not None and not bool(self.standardizer.fitted):
            with torch.no_grad():
                self.standardizer.set_from(chunk if self.support_map is None else self.support_map.inverse(chunk)[0] for chunk in chunks)

    def summary(self) -> str:
        """A table of the maps from latent to data: shape, kind of inverse, number of parameters."""
        return summary(self)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Flow]]:
        base = {"name": "standard_normal", "shape": (2,)}
        coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 3}
        yield "conditional", cls(build(base, Distribution), build(coupling, Bijector))
        box = build({"name": "box", "low": -1.0, "high": 1.0, "dim": 2}, Domain)
        yield "box", cls(build(base, Distribution), build({"name": "affine", "shape": (2,)}, Bijector), box, standardize=True)
