"""Normal laws cut off at the boundary of a domain."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.domain import Product
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import Context, check_event, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._normal_on import Part, part_of
from flowkit.distributions._starts import unit_temperature


@DISTRIBUTIONS.register("truncated_normal_on")
class TruncatedNormalOn(Distribution):
    """N(loc, scale^2) conditioned on a domain, with nothing to learn: p(x) = N(x; loc, scale^2) / P(domain); no temperature.

    The mass P is exact: a product of Phi differences on a box, Phi on a half-space, a chi-square's distribution function on a ball
    (loc 0), a numerical convolution on the simplex (one loc for all coordinates); products multiply. ``TruncatedNormal`` is the
    law on a box whose loc and scale are learned.

    Args:
        domain: a box, half-space, ball or simplex, or a product of them.
        loc: number or one per coordinate; default the domain's centre.
        scale: positive number, on boxes also one per coordinate; default the domain's half-width.

    Raises:
        ConfigError: the domain is of another kind, or hardly any mass lies inside.

    Example:
        >>> import torch
        >>> from flowkit.core.domain import Box
        >>> from flowkit.distributions import TruncatedNormalOn
        >>> round(TruncatedNormalOn(Box(-1.0, 1.0, 1)).log_prob(torch.zeros(1)).exp().item(), 4)      # 0.3989 / 0.6827
        0.5844
    """

    _support: Domain
    mean: Tensor
    deviation: Tensor

    def __init__(self, domain: Domain, loc: float | Sequence[float] | Tensor | None = None, scale: float | Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        if not isinstance(domain, Domain):
            raise ConfigError(f"{self.who}: expected a domain; got {type(domain).__name__}. Pass e.g. Ball(1.0, 2).")
        self.loc, self.scale = loc, scale
        self._support, self.event_shape = domain, domain.event_shape
        parts, means, deviations = [], [], []
        start = 0
        for factor in domain.domains if isinstance(domain, Product) else (domain,):
            part, mean, deviation = self._factor(factor, start, isinstance(domain, Product))  # type: ignore[arg-type]
            start += math.prod(mean.shape)
            parts.append(part)
            means.append(mean)
            deviations.append(deviation.expand(mean.shape))
        self._parts: list[Part] = parts
        self.log_mass = sum(part.log_mass for part in parts)
        joined = (lambda found: torch.cat(found)) if isinstance(domain, Product) else (lambda found: found[0])
        self.register_buffer("mean", joined(means).to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("deviation", joined(deviations).to(torch.get_default_dtype()), persistent=False)

    def _factor(self, factor: Domain, start: int, sliced: bool) -> tuple[Part, Tensor, Tensor]:
        """The law on one factor, its mean and its deviation."""
        centre, width = getattr(factor, "centre", None), getattr(factor, "half_width", None)
        if centre is None or width is None:
            raise ConfigError(f"{self.who}: the mass of a normal law in {factor} has no known form. Use UniformOn(domain).")
        sizes = tuple(centre.shape)
        found = []
        for name, given, default in (("loc", self.loc, centre), ("scale", self.scale, width)):
            value = default.double() if given is None else torch.as_tensor(given, dtype=torch.float64)
            if sliced and given is not None and value.dim():
                value = value[start : start + sizes[0]]
            if not bool(torch.isfinite(value).all()) or (name == "scale" and not bool((value > 0).all())):
                raise ConfigError(f"{self.who}: expected {name} to be finite{' and > 0' if name == 'scale' else ''}; got {given}.")
            found.append(value)
        try:
            mean = found[0].expand(sizes)
            found[1].expand(sizes)
        except RuntimeError:
            raise ConfigError(f"{self.who}: expected loc and scale that broadcast to {sizes}; got {self.loc} and {self.scale}.") from None
        return part_of(factor, mean, found[1]), mean, found[1]

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        mean, deviation = self.mean.to(x.dtype), self.deviation.to(x.dtype)
        each = -0.5 * ((x - mean) / deviation).square() - HALF_LOG_2PI - deviation.log()
        return sum_event(each, len(self.event_shape)) - self.log_mass

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        unit_temperature(temperature, self.who)
        drawn = torch.cat([part.draw(math.prod(shape), generator, self.like) for part in self._parts], dim=-1 if len(self._parts) > 1 else 0)
        return drawn.reshape(*shape, *drawn.shape[1:])

    def score(self, x: Tensor, context: Context = None) -> Tensor:
        """(loc - x) / scale^2: (*B, *event)."""
        check_event(x, self.event_shape, f"{self.who}.score")
        return (self.mean.to(x.dtype) - x) / self.deviation.to(x.dtype).square()

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TruncatedNormalOn]]:
        yield "interval", cls(build({"name": "box", "low": [-1.0], "high": [2.0]}, Domain), 0.5, 0.7)
        yield "disc", cls(build({"name": "ball", "radius": 2.0, "dim": 2}, Domain))
        yield "triangle", cls(build({"name": "simplex", "dim": 2}, Domain), scale=0.2)
        yield "half_plane", cls(build({"name": "half_space", "normal": [1.0, 2.0], "offset": -0.5}, Domain))
        factors = [{"name": "box", "low": 0.0, "high": 1.0, "dim": 1}, {"name": "ball", "radius": 1.0, "dim": 1}]
        yield "product", cls(build({"name": "product", "domains": factors}, Domain))
