"""Stochastic interpolants: a path between two ends, with noise that vanishes where the path must be exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive_number

Gamma = Literal["brownian", "sine", "one_sided"]


@dataclass(frozen=True)
class Interpolant:
    """x_t = I(t, x0, x1) + gamma(t) z with z ~ N(0, 1), and its rate of change.

        "brownian":  I = (1 - t) x0 + t x1,  gamma = sqrt(scale t (1 - t))
        "sine":      I = (1 - t) x0 + t x1,  gamma = sqrt(scale) sin^2(pi t)
        "one_sided": I = t x1,               gamma = 1 - t,  z = x0, which must be normal

    Args:
        gamma: as above. scale: factor of gamma squared; not used by "one_sided".
    """

    gamma: Gamma = "brownian"
    scale: float = 1.0

    @classmethod
    def checked(cls, gamma: Gamma, scale: float, who: str) -> Interpolant:
        """The interpolant, its arguments checked."""
        if gamma not in get_args(Gamma):
            raise ConfigError(f"{who}: expected gamma to be one of {', '.join(get_args(Gamma))}; got {gamma!r}.")
        return cls(gamma, positive_number(scale, who, "scale"))

    @property
    def one_sided(self) -> bool:
        """Whether the noise is the end at time 0 itself."""
        return self.gamma == "one_sided"

    def noise(self, t: Tensor) -> Tensor:
        """gamma(t)."""
        if self.gamma == "brownian":
            return (self.scale * t * (1 - t)).sqrt()
        return 1 - t if self.one_sided else math.sqrt(self.scale) * torch.sin(math.pi * t) ** 2

    def noise_rate(self, t: Tensor) -> Tensor:
        """d gamma / dt; infinite at 0 and 1 for "brownian"."""
        if self.gamma == "brownian":
            return 0.5 * self.scale * (1 - 2 * t) / self.noise(t)
        return -torch.ones_like(t) if self.one_sided else math.pi * math.sqrt(self.scale) * torch.sin(2 * math.pi * t)

    def mean(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """I(t, x0, x1), for t that broadcasts against the ends."""
        return t * x1 if self.one_sided else torch.lerp(x0, x1, t)

    def mean_rate(self, x0: Tensor, x1: Tensor) -> Tensor:
        """dI/dt."""
        return x1 if self.one_sided else x1 - x0
