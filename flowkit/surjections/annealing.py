"""Annealed importance sampling as a layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import positive, show
from flowkit.core.surjection import Surjection
from flowkit.core.target import Target
from flowkit.numerics.mcmc import hamiltonian
from flowkit.surjections._transition import Transition, check_step


@SURJECTIONS.register("annealing", "ais")
class Annealing(Surjection):
    """Hamiltonian steps along the geometric path from one density to another: forward from ``start`` to ``end``, inverse back.

    Step k of K moves towards log density (1 - b) log start + b log end, b = k / (K + 1), and contributes that density's change.
    Behind a flow whose density is ``start`` its path weights are those of annealed importance sampling.

    Args:
        start, end: densities known up to a constant.
        steps: K, densities in between.
        step_size, leapfrog_steps: of every Hamiltonian step.

    Reference: Neal (2001), Annealed importance sampling, arXiv:physics/9803008; Wu, Koehler and Noe (2020), arXiv:2002.06707.
    """

    draws = frozenset({"forward", "inverse"})
    traits = Transition.traits

    def __init__(
        self, start: Target | Distribution, end: Target | Distribution, steps: int = 8, *, step_size: float = 0.1, leapfrog_steps: int = 5
    ) -> None:
        super().__init__()
        for name, density in (("start", start), ("end", end)):
            if not isinstance(density, Target | Distribution):
                raise ConfigError(f"Annealing: expected a target or a distribution as {name}; got {type(density).__name__}.")
        if tuple(start.event_shape) != tuple(end.event_shape):
            raise ShapeError(f"Annealing: start has events {show(start.event_shape)}, end {show(end.event_shape)}.")
        self.start, self.end, self.steps = start, end, positive(steps, "Annealing", "steps")
        self.step_size, self.leapfrog_steps = check_step(step_size, "Annealing"), positive(leapfrog_steps, "Annealing", "leapfrog_steps")
        self.in_shape = self.out_shape = tuple(start.event_shape)

    def _run(self, value: Tensor, order: range, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        total = value.new_zeros(value.shape[: value.dim() - len(self.in_shape)], dtype=torch.promote_types(value.dtype, torch.float32))
        for k in order:
            share = k / (self.steps + 1)

            def log_density(x: Tensor, share: float = share) -> Tensor:
                return (1 - share) * self.start.log_density(x) + share * self.end.log_density(x)

            after, _ = hamiltonian(log_density, value, len(self.in_shape), self.step_size, self.leapfrog_steps, generator)
            total = total + log_density(value) - log_density(after)
            value = after
        return value, total

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, range(1, self.steps + 1), generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, range(self.steps, 0, -1), generator)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Annealing]]:
        def normal(loc: float) -> Any:
            return build({"name": "diagonal_normal", "shape": (2,), "loc": loc}, Distribution)

        yield "normals", cls(normal(0.0), normal(1.0), 2, leapfrog_steps=2)
