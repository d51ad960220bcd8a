"""Modules of nflows seen as flowkit's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nflows.distributions.base import Distribution as NflowsDistribution
from nflows.distributions.normal import StandardNormal as NflowsStandardNormal
from nflows.flows.base import Flow as NflowsFlow
from nflows.transforms.base import InputOutsideDomain, InverseNotAvailable
from nflows.transforms.base import Transform as NflowsTransform
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, DomainError, NotInvertibleError
from flowkit.core.flow import Flow
from flowkit.core.shapes import zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.distributions import StandardNormal
from flowkit.distributions._starts import unit_temperature
from flowkit.distributions._torch_parts import forked_rng
from flowkit.interop._parts import is_plain

Sizes = tuple[int, ...]


def wrap(source: Any, shape: Sizes | None, context_shape: Sizes | None) -> Any:
    """A transform as a Bijector, a flow as a Flow, a distribution as a Distribution."""
    if isinstance(source, NflowsFlow):
        return _wrap_flow(source, shape, context_shape)
    if isinstance(source, NflowsTransform):
        return WrappedTransform(source, shape or _event_shape(source), context_shape or context_of(source))
    if isinstance(source, NflowsDistribution):
        return _wrap_distribution(source, shape or _event_shape(source), context_shape or context_of(source))
    raise ConfigError(f"nflows.to_flowkit: expected an nflows Transform, Flow or Distribution; got {type(source).__name__}.")


def _wrap_flow(source: Any, shape: Sizes | None, raw: Sizes | None) -> Flow:
    if not is_plain(source, NflowsFlow):
        name = type(source).__qualname__
        raise ConfigError(
            f"nflows.to_flowkit: {name} changes what nflows.flows.Flow does, so it cannot be taken apart. Wrap its transform and its distribution."
        )
    shape = shape or _event_shape(source._distribution)
    embed, inner = source._embedding_net, raw
    if not isinstance(embed, nn.Identity):
        raw = raw or _first_width(embed)
        with torch.no_grad():
            first = next(source.parameters())
            inner = tuple(embed(first.new_zeros(1, *raw)).shape[1:])
    transform_context = context_of(source._transform) and (inner or context_of(source._transform))
    base_context = context_of(source._distribution) and (inner or context_of(source._distribution))
    if inner is not None and transform_context is None and base_context is None:
        transform_context = inner  # told, though no part shows it
    base = _wrap_distribution(source._distribution, shape, base_context)
    _follow(base, source)
    bijector = WrappedTransform(source._transform, shape, transform_context)
    if isinstance(embed, nn.Identity):
        return Flow(base, bijector)
    return Flow(base, bijector, embed=_Embedding(embed, raw or ()), context_shape=raw)


def _wrap_distribution(source: NflowsDistribution, shape: Sizes, context: Sizes | None) -> Distribution:
    base = StandardNormal(shape) if type(source) is NflowsStandardNormal else WrappedDistribution(source, shape, context)
    _follow(base, source)
    return base


def _follow(base: Distribution, source: nn.Module) -> None:
    """Draw in the dtype and on the device of the source's parameters, without touching them."""
    first = next(source.parameters(), None)
    if first is not None:
        base.like = base.like.to(first)


def _first_width(embed: nn.Module) -> Sizes:
    for part in embed.modules():
        if isinstance(part, nn.Linear):
            return (part.in_features,)
    raise ConfigError(f"nflows.to_flowkit: {type(embed).__name__} does not say the shape of the context. Pass context_shape=.")


def context_of(module: nn.Module) -> Sizes | None:
    """The event shape of the context that the networks in a module read, or None."""
    for part in module.modules():
        size = getattr(part, "context_features", None)
        if isinstance(size, int) and size:
            return (size,)
        layer = getattr(part, "context_layer", None)
        if isinstance(layer, nn.Linear):
            return (layer.in_features,)
        encoder = getattr(part, "_context_encoder", None)
        if encoder is not None:
            widths = [layer.in_features for layer in encoder.modules() if isinstance(layer, nn.Linear)] if isinstance(encoder, nn.Module) else []
            shape: Any = getattr(part, "_shape", torch.Size())
            return (widths[0],) if widths else (2 * shape.numel(),)  # the context itself is mean and log-scale
    return None


def _event_shape(module: nn.Module) -> Sizes:
    """The event shape of the first part that says it."""
    for part in module.modules():
        shape = getattr(part, "_shape", None)
        if isinstance(shape, torch.Size):
            return tuple(shape)
        size = getattr(part, "features", None)
        if isinstance(size, int):
            return (size,)
        for name, axis in (("_permutation", 0), ("log_scale", 0), ("running_mean", 0)):
            table = getattr(part, name, None)
            if isinstance(table, Tensor) and table.dim() == 1 and getattr(part, "_dim", 1) == 1:
                return (table.shape[axis],)
        net = getattr(part, "initial_layer", None)
        if isinstance(net, nn.Linear) and hasattr(net, "mask"):
            return (net.in_features,)
    raise ConfigError(f"nflows.to_flowkit: {type(module).__name__} does not say the shape of its events. Pass shape=.")


def _rows(value: Tensor, rank: int) -> Tensor:
    return value.reshape(-1, *value.shape[value.dim() - rank :])


class WrappedTransform(Bijector):
    """An nflows transform as a bijector, turned around. It is not registered: it trains, but cannot be saved.

    Args:
        transform: maps data to noise.
        shape: of one event.
        context: event shape of the context, or None.
    """

    traits = Traits(compiles=False, vmaps=False, smooth=False)

    def __init__(self, transform: NflowsTransform, shape: Sizes, context: Sizes | None) -> None:
        super().__init__()
        self.transform = transform
        self.in_shape = self.out_shape = shape
        self.context_shape = context

    @property
    def who(self) -> str:
        return f"nflows {type(self.transform).__name__}"

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._through(self.transform.inverse, z, context)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._through(self.transform.forward, x, context)

    def _through(self, call: Callable[..., tuple[Tensor, Tensor]], value: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        rank = len(self.in_shape)
        rows = _rows(value, rank)
        if not len(rows):  # some of nflows' checks take the minimum of all values
            return value.clone(), zeros_log_det(value, self.in_shape)
        flat = None if context is None else _rows(context, len(self.context_shape or ()))
        try:
            out, log_det = call(rows, flat)
        except InputOutsideDomain:
            raise DomainError(f"{self.who}: a value lies outside the domain of the nflows transform.") from None
        except InverseNotAvailable as error:
            raise NotInvertibleError(f"{self.who}: {error or 'has no inverse'}") from None
        batch = value.shape[: value.dim() - rank]
        return out.reshape(*batch, *out.shape[1:]), log_det.to(torch.promote_types(value.dtype, torch.float32)).reshape(batch)


class WrappedDistribution(Distribution):
    """An nflows distribution as flowkit's; it has no temperature. nflows' samplers take no generator: with one, a fork of the global RNG is seeded.

    Args:
        distribution: of nflows.
        shape: of one event.
        context: event shape of the context, or None.
    """

    def __init__(self, distribution: NflowsDistribution, shape: Sizes, context: Sizes | None) -> None:
        super().__init__()
        self.distribution = distribution
        self.event_shape, self.context_shape = shape, context

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        rows = _rows(x, len(self.event_shape))
        flat = None if context is None else _rows(context, len(self.context_shape or ()))
        batch = x.shape[: x.dim() - len(self.event_shape)]
        return self.distribution.log_prob(rows, flat).to(torch.promote_types(x.dtype, torch.float32)).reshape(batch)

    def _rsample(self, shape: Sizes, context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        unit_temperature(temperature, type(self.distribution).__name__)
        count = torch.Size(shape).numel()
        if not count:
            return self.like.new_zeros((*shape, *self.event_shape))  # type: ignore[arg-type]
        with forked_rng(generator, self.like.device):
            try:
                if context is None:
                    drawn = self.distribution.sample(count)
                else:
                    drawn = self.distribution.sample(1, _rows(context, len(self.context_shape or ()))).squeeze(1)
            except NotImplementedError:
                raise NotInvertibleError(f"nflows {type(self.distribution).__name__}: cannot be sampled.") from None
        return drawn.to(self.like.dtype).reshape(*shape, *self.event_shape)


class _Embedding(nn.Module):
    """An embedding net that sees one batch axis."""

    def __init__(self, net: nn.Module, shape: Sizes) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, context: Tensor) -> Tensor:
        out = self.net(_rows(context, len(self.shape)))
        return out.reshape(*context.shape[: context.dim() - len(self.shape)], *out.shape[1:])
