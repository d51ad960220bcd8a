"""What the samplers share: densities of models and targets as checked functions, draws in parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.flow import Flow
from flowkit.core.shapes import Context, batch_shape, context_batch, show, unify
from flowkit.core.target import Target
from flowkit.numerics.mcmc import LogDensity

Density = Target | Distribution


def check_density(density: Any, who: str, role: str) -> None:
    """Raise ConfigError unless it is a target, or a distribution with a density in the data space."""
    if not isinstance(density, Target | Distribution):
        raise ConfigError(f"{who}: expected a target, a distribution or a flow as {role}; got {type(density).__name__}.")
    if isinstance(density, Flow) and density.density == "manifold":
        raise ConfigError(f"{who}: expected a density in the data space as {role}; that of {type(density).__name__} lives on a manifold.")


def check_pair(start: Any, end: Any, who: str, roles: tuple[str, str]) -> None:
    """Raise ConfigError or ShapeError unless both are densities of the same events."""
    for density, role in zip((start, end), roles, strict=True):
        check_density(density, who, role)
    if not isinstance(start, Distribution):
        raise ConfigError(f"{who}: expected a distribution or a flow to draw from as {roles[0]}; got the target {type(start).__name__}.")
    if unify(tuple(start.event_shape), tuple(end.event_shape)) is None:
        raise ShapeError(f"{who}: {roles[0]} has events {show(tuple(start.event_shape))}, {roles[1]} {show(tuple(end.event_shape))}.")


def check_single(densities: tuple[Density, ...], context: Context, who: str) -> None:
    """Raise ShapeError where a context stands for several conditions, whose samples would be of different densities, or is wanted by nobody."""
    shapes = [density.context_shape for density in densities if isinstance(density, Distribution) and density.context_shape is not None]
    if context is not None and not shapes:
        raise ShapeError(f"{who}: got a context, but neither side declares one. Drop it.")
    batch = () if context is None else tuple(context_batch(context, shapes[0]))
    if batch:
        raise ShapeError(f"{who}: expected the context of one condition; got a batch of shape {batch}. Call it once for each condition.")


def context_for(density: Density, context: Context) -> Context:
    """The context, for a density that takes one."""
    return context if isinstance(density, Distribution) and density.context_shape is not None else None


def log_density_of(density: Density, context: Context, who: str) -> LogDensity:
    """log density (*B, *event) -> (*B) under a fixed context; a wrong shape is an error that names the density."""
    context = context_for(density, context)
    name = type(density).__name__

    def log_density(x: Tensor) -> Tensor:
        value: Any = density.log_density(x, context) if isinstance(density, Distribution) else density.log_density(x)
        want = tuple(batch_shape(x, tuple(density.event_shape)))
        if not isinstance(value, Tensor) or tuple(value.shape) != want:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"{who}: expected {name}.log_density to give one value an event, shape {want}; got {got}.")
        return value

    return log_density


def check_gradient(log_density: LogDensity, x: Tensor, name: str, who: str) -> None:
    """Raise ConfigError unless the log-density can be differentiated in x: beside a start that can, steps would go on without it."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = log_density(x)
        found = value.requires_grad and torch.autograd.grad(value.sum(), x, allow_unused=True)[0] is not None
    if not found:
        raise ConfigError(f"{who}: {name}.log_density has no gradient in x, which this kernel needs. Use kernel='random_walk', or differentiable operations.")


def draw_with_log_prob(model: Distribution, n: int, context: Context, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """n draws (n, *event) and their log-densities (n); a flow's from one pass, that of the path where its density is a lower bound."""
    context = context_for(model, context)
    if isinstance(model, Flow):
        return model.sample_and_log_prob((n,), context, generator)
    x = model.sample((n,), context, generator)
    return x, model.log_prob(x, context)


def exact_samples(target: Density, n: int, context: Context, generator: torch.Generator | None) -> Tensor | None:
    """n exact samples (n, *event) where the target has a sampler."""
    if not target.can_sample:
        return None
    return target.sample((n,), context_for(target, context), generator) if isinstance(target, Distribution) else target.sample(n, generator)


def parts(n: int, batch_size: int) -> list[int]:
    """Sizes of the parts in which n are done."""
    return [min(batch_size, n - done) for done in range(0, n, batch_size)]
