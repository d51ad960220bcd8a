"""What stochastic layers made of Markov transitions share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import positive
from flowkit.core.surjection import Surjection
from flowkit.core.target import Target
from flowkit.core.traits import Traits


class Transition(Surjection):
    """Both directions move the events towards ``target``; a subclass writes ``_move``.

    ``_move`` returns the next events and log k(before|after) - log k(after|before), k the density of the move.
    """

    draws = frozenset({"forward", "inverse"})
    # accepting makes outputs jump; gradients of the target are taken inside
    traits = Traits(log_det="bound", stochastic=True, smooth=False, compiles=False, vmaps=False)
    target: nn.Module

    def _setup(self, target: Target | Distribution, steps: int) -> None:
        if not isinstance(target, Target | Distribution):
            raise ConfigError(f"{self.who}: expected a target or a distribution; got {type(target).__name__}.")
        self.target, self.steps = target, positive(steps, self.who, "steps")
        self.in_shape = self.out_shape = tuple(target.event_shape)

    def _move(self, value: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _log_density(self, x: Tensor) -> Tensor:
        return self.target.log_density(x)  # type: ignore[operator]

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._move(z, generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._move(x, generator)

    def _weighed(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """After moves in detailed balance with the target: k(before|after) / k(after|before) is the ratio of its densities."""
        return after, self._log_density(before) - self._log_density(after)


def check_step(size: float, who: str, name: str = "step_size") -> float:
    """Check a step size: a number > 0."""
    if not isinstance(size, int | float) or not 0 < size < float("inf"):
        raise ConfigError(f"{who}: expected {name} to be a number > 0; got {size!r}.")
    return size
