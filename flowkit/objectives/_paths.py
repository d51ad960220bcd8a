"""Conditional probability paths of flow matching: where a pair (x0, x1) is at time t, and how fast it moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import mask_event
from flowkit.numerics.schedules import Coefficients, Schedule, described, margin


class Located(NamedTuple):
    """A place on the path of every pair, and its velocity: (B, *event) each."""

    x: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Path:
    """x_t = alpha x1 + sigma_t x0 + sigma eps with an affine schedule; or, without one, the Brownian bridge of diffusion sigma^2.

        affine: u = alpha' x1 + sigma_t' x0
        bridge: x_t = (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) eps,  u = x1 - x0 + sigma (1 - 2 t) / (2 sqrt(t (1 - t))) eps

    Both are the derivative of x_t at fixed x0, x1 and eps. The bridge's is infinite at both ends, so times are kept ``margin`` off them.

    Args:
        schedule: of the affine path, None for the bridge. sigma: as above, >= 0.

    Reference: Tong et al. (2024), Improving and generalizing flow-based generative models with minibatch optimal transport, arXiv:2302.00482, section 3.
    """

    schedule: Schedule | None
    sigma: float = 0.0

    @classmethod
    def of(cls, path: str | Mapping[str, Any], sigma: float, who: str) -> Path:
        """The path that a name, or ``{name: ..., **options}``, describes; "target_ot" takes sigma as its smallest noise.

        Raises:
            UnknownNameError, ConfigError: the name or an option is not known; a bridge with sigma = 0.
        """
        name, options = described(path, "path", who)
        if name != "bridge":
            schedule = Schedule.of(path, who, smallest=sigma)
            return cls(schedule, 0.0 if schedule.name == "target_ot" else sigma)
        if options:
            raise ConfigError(f"{who}: path 'bridge' has no option {min(options)!r}. Its diffusion is sigma=.")
        if sigma == 0:
            raise ConfigError(f"{who}: expected sigma > 0 for path 'bridge'; got 0. Pass e.g. sigma=0.5, or path='linear'.")
        return cls(None, sigma)

    def times(self, t: Tensor) -> Tensor:
        """The times at which the velocity is finite."""
        return t.clamp(margin(t), 1 - margin(t)) if self.schedule is None else self.schedule.times(t)

    def at(self, t: Tensor, x0: Tensor, x1: Tensor, noise: Tensor | None = None) -> Located:
        """Place and velocity at times t (B) of pairs (B, *event); ``noise`` is eps, needed where sigma > 0."""
        t = mask_event(t, x1.dim() - t.dim())
        if self.schedule is None:
            return self._bridge(t, x0, x1, noise)
        if self.schedule.name == "linear":
            located = Located(torch.lerp(x0, x1, t), x1 - x0)
        else:
            alpha, sigma, alpha_rate, sigma_rate = self.schedule.coefficients(t)
            located = Located(torch.addcmul(sigma * x0, alpha, x1), torch.addcmul(sigma_rate * x0, alpha_rate, x1))
        return located if self.sigma == 0 else Located(torch.add(located.x, _given(noise), alpha=self.sigma), located.velocity)

    def _bridge(self, t: Tensor, x0: Tensor, x1: Tensor, noise: Tensor | None) -> Located:
        t = self.times(t)
        wide = torch.sqrt(t * (1 - t))
        eps = self.sigma * _given(noise)
        return Located(torch.addcmul(torch.lerp(x0, x1, t), wide, eps), torch.addcmul(x1 - x0, (0.5 - t) / wide, eps))

    def coefficients(self, t: Tensor, x: Tensor) -> Coefficients:
        """The affine schedule's, shaped to broadcast against x (B, *event); only where the path has a schedule."""
        assert self.schedule is not None
        return self.schedule.coefficients(mask_event(t, x.dim() - t.dim()))


def _given(noise: Tensor | None) -> Tensor:
    if noise is None:
        raise ConfigError("Path: expected noise, a standard normal of the shape of x1, where sigma > 0; got none.")
    return noise
