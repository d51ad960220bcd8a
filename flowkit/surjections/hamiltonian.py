"""Hamiltonian Monte Carlo as a layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import positive
from flowkit.core.target import Target
from flowkit.numerics.mcmc import hamiltonian
from flowkit.surjections._transition import Transition, check_step


@SURJECTIONS.register("hamiltonian", "hmc")
class Hamiltonian(Transition):
    """Hamiltonian Monte Carlo steps towards a density, in both directions.

    The contribution of either direction is log target(before) - log target(after), whether or not steps were accepted.

    Args:
        target: density known up to a constant, with a gradient.
        steps: number of steps.
        step_size: of the leapfrog integrator.
        leapfrog_steps: per step.

    Reference: Neal (2011), arXiv:1206.1901; Wu, Koehler and Noe (2020), arXiv:2002.06707, section 4.
    """

    def __init__(self, target: Target | Distribution, steps: int = 1, *, step_size: float = 0.1, leapfrog_steps: int = 5) -> None:
        super().__init__()
        self._setup(target, steps)
        self.step_size = check_step(step_size, "Hamiltonian")
        self.leapfrog_steps = positive(leapfrog_steps, "Hamiltonian", "leapfrog_steps")

    def _move(self, value: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        after = value
        for _ in range(self.steps):
            after, _ = hamiltonian(self._log_density, after, len(self.in_shape), self.step_size, self.leapfrog_steps, generator)
        return self._weighed(value, after)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Hamiltonian]]:
        yield "normal", cls(build({"name": "diagonal_normal", "shape": (2,), "scale": 0.7}, Distribution), leapfrog_steps=2)
