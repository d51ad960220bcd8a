"""Stochastic paths with the marginals of a probability flow, by Heun's method.

1. p_t solves d p / dt = -div(b p). With the score s = grad log p, eps div(s p) = eps laplace(p), so b + eps s with noise sqrt(2 eps) dW forward in
   time, and b - eps s with the same noise backward, have the same marginals for any eps(t) >= 0.
2. eps s = -(eps / gamma) eta with the denoiser eta, which is bounded where the score is not.
3. Heun's corrector with the noise of the predictor is of weak order 2 for noise that does not depend on the place; the variance of a step is
   int 2 eps dt by the trapezoid rule.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context
from flowkit.objectives._interpolant import Interpolant

MARGIN = 1e-3  # nearer to 0 and 1 a given eps(t), which is divided by gamma, counts as 0


class NoiseLevel:
    """eps(t) of an SDE: e gamma(t)^2 for a number e, or a function of the time."""

    def __init__(self, interpolant: Interpolant, noise: float | Callable[[Tensor], Tensor], who: str) -> None:
        self.interpolant, self.noise, self.who = interpolant, noise, who
        if not callable(noise) and not (isinstance(noise, int | float) and math.isfinite(noise) and noise >= 0):
            raise ConfigError(f"{who}: expected noise to be a finite number >= 0 or a function of the time; got {noise!r}.")

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """eps and eps / gamma at a time: () and ()."""
        if not callable(self.noise):
            gamma = self.interpolant.noise(t)
            return self.noise * gamma**2, self.noise * gamma
        if not MARGIN <= float(t) <= 1 - MARGIN:
            return torch.zeros_like(t), torch.zeros_like(t)
        eps = torch.as_tensor(self.noise(t), dtype=t.dtype, device=t.device)
        if eps.dim() or not bool(eps >= 0):
            raise ConfigError(f"{self.who}: expected noise(t) >= 0, a number; got {eps.tolist()} at t = {float(t):.4g}.")
        return eps, eps / self.interpolant.noise(t)


class StochasticPath:
    """The SDE of a velocity and a denoiser.

    Args:
        field: b. denoiser: (t, x, context) -> eta. level: eps(t). context: embedded. generator: of the noise.
    """

    def __init__(
        self, field: Any, denoiser: Callable[[Tensor, Tensor, Context], Tensor], level: NoiseLevel, context: Context, generator: torch.Generator | None
    ) -> None:
        self.field, self.denoiser, self.level, self.context, self.generator = field, denoiser, level, context, generator

    def follow(self, x: Tensor, start: float, end: float, steps: int) -> Tensor:
        """Carry x (*B, *event) from one time to another, either way."""
        times = torch.linspace(start, end, steps + 1, dtype=x.dtype, device=x.device)
        quiet = self._quiet()
        for t, later in itertools.pairwise(times):
            h = later - t
            spread = (h.abs() * (self.level(t)[0] + self.level(later)[0])).sqrt()
            kick = 0.0 if quiet else spread * torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)
            drift = self._drift(t, x, h)
            x = x + 0.5 * h * (drift + self._drift(later, x + h * drift + kick, h)) + kick
        return x

    def _drift(self, t: Tensor, x: Tensor, h: Tensor) -> Tensor:
        velocity: Tensor = self.field.velocity(t, x, self.context)
        if self._quiet():
            return velocity
        return velocity - h.sign() * self.level(t)[1] * self.denoiser(t, x, self.context)

    def _quiet(self) -> bool:
        """Whether this is the ODE."""
        return not callable(self.level.noise) and self.level.noise == 0
