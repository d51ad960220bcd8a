"""Random-walk Metropolis steps as a layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.registry import SURJECTIONS
from flowkit.core.target import Target
from flowkit.numerics.mcmc import metropolis
from flowkit.surjections._transition import Transition, check_step


@SURJECTIONS.register("metropolis")
class Metropolis(Transition):
    """Random-walk Metropolis steps towards a density, in both directions.

    The contribution of either direction is log target(before) - log target(after), whether or not steps were accepted.

    Args:
        target: density known up to a constant.
        steps: number of steps.
        scale: standard deviation of the proposal.

    Reference: Wu, Koehler and Noe (2020), Stochastic Normalizing Flows, arXiv:2002.06707, equation 15.
    """

    def __init__(self, target: Target | Distribution, steps: int = 1, *, scale: float = 0.5) -> None:
        super().__init__()
        self._setup(target, steps)
        self.scale = check_step(scale, "Metropolis", "scale")

    def _move(self, value: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        after = value
        for _ in range(self.steps):
            after, _ = metropolis(self._log_density, after, len(self.in_shape), self.scale, generator)
        return self._weighed(value, after)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Metropolis]]:
        yield "normal", cls(build({"name": "diagonal_normal", "shape": (2,), "scale": 0.7}, Distribution), 2)
