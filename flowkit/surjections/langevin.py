"""Langevin steps as a layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.registry import SURJECTIONS
from flowkit.core.target import Target
from flowkit.core.traits import Traits
from flowkit.numerics.mcmc import langevin
from flowkit.surjections._transition import Transition, check_step


@SURJECTIONS.register("langevin")
class Langevin(Transition):
    """Unadjusted Langevin steps towards a density, in both directions; nothing is rejected, so gradients pass.

    The contribution sums log k(before|after) - log k(after|before) over the steps, k the normal density of a step.

    Args:
        target: density known up to a constant, with a gradient.
        steps: number of steps.
        step_size: h.

    Reference: Wu, Koehler and Noe (2020), Stochastic Normalizing Flows, arXiv:2002.06707, section 4.
    """

    traits = Traits(log_det="bound", stochastic=True, compiles=False, vmaps=False)

    def __init__(self, target: Target | Distribution, steps: int = 1, *, step_size: float = 0.01) -> None:
        super().__init__()
        self._setup(target, steps)
        self.step_size = check_step(step_size, "Langevin")

    def _move(self, value: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        value, total = langevin(self._log_density, value, len(self.in_shape), self.step_size, generator)
        for _ in range(self.steps - 1):
            value, weight = langevin(self._log_density, value, len(self.in_shape), self.step_size, generator)
            total = total + weight
        return value, total

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Langevin]]:
        yield "normal", cls(build({"name": "diagonal_normal", "shape": (2,), "scale": 0.7}, Distribution), 2, step_size=0.1)
