"""Uniform laws on bounded domains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context
from flowkit.distributions._starts import unit_temperature


@DISTRIBUTIONS.register("uniform_on")
class UniformOn(Distribution):
    """The uniform law on a bounded domain, p(x) = 1 / volume inside; no temperature.

    Args:
        domain: a box, ball, simplex or polytope, or a product of them.

    Raises:
        ConfigError: the domain is unbounded, or its volume is not known.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Ball
        >>> from flowkit.distributions import UniformOn
        >>> round(UniformOn(Ball(2.0, 2)).log_prob(torch.zeros(2)).item(), 4)      # -log(4 pi)
        -2.531
    """

    _support: Domain

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        if not isinstance(domain, Domain):
            raise ConfigError(f"{self.who}: expected a domain; got {type(domain).__name__}. Pass e.g. Box(0.0, 1.0, 2).")
        log_volume = getattr(domain, "log_volume", None)
        if log_volume is None or not math.isfinite(log_volume):
            reason = "unbounded" if log_volume is not None else "of a kind whose volume is not known"
            raise ConfigError(f"{self.who}: expected a bounded domain of known volume; got {domain}, which is {reason}. Use a TruncatedNormalOn there.")
        self.log_volume = log_volume
        self._support = domain
        self.event_shape = domain.event_shape

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return torch.full(x.shape[: x.dim() - len(self.event_shape)], -self.log_volume, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        unit_temperature(temperature, self.who)
        drawn = self._support.uniform(math.prod(shape), generator)
        return drawn.reshape(*shape, *drawn.shape[1:])

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        """Zero: (*B, *event)."""
        return torch.zeros_like(x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UniformOn]]:
        yield "disc", cls(build({"name": "ball", "radius": 2.0, "dim": 2}, Domain))
        yield "triangle", cls(build({"name": "simplex", "dim": 2}, Domain))
        yield "polytope", cls(build({"name": "polytope", "G": [[-1.0, 0.0], [0.0, -2.0], [1.0, 1.0]], "c": [0.5, 1.0, 1.0]}, Domain))
