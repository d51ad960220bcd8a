"""Training of diffusion samplers by whole paths and a learned log Z."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive_number
from flowkit.core.target import Target
from flowkit.objectives._balance import PathObjective


@OBJECTIVES.register("trajectory_balance")
class TrajectoryBalance(PathObjective):
    """Balance of a diffusion sampler's whole paths with a learned log Z.

        loss = mean (log Z + sum_n log P_F(x_{n+1} | x_n) - log P_B(x_n | x_{n+1}) - log mu(x_N))^2

    Paths are drawn without a graph, with any volatility.

    Args:
        target: mu.
        start: log Z at the start; far from the truth it takes many steps to get there.
        exploration: volatility that paths are drawn with; None for the sampler's own.
        lr_scale: learning rate of log Z beside that of the sampler.

    Reference: Malkin et al. (2022), Trajectory balance, arXiv:2201.13259.
    """

    def __init__(self, target: Target | Distribution, *, start: float = 0.0, exploration: float | None = None, lr_scale: float = 10.0) -> None:
        super().__init__(target, exploration)
        if isinstance(start, bool) or not isinstance(start, int | float) or not math.isfinite(start):
            raise ConfigError(f"TrajectoryBalance: expected start to be a finite number; got {start!r}.")
        self.start, self.lr_scale = start, positive_number(lr_scale, "TrajectoryBalance", "lr_scale")
        self.log_z = nn.Parameter(torch.tensor(float(start)))

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        drawn = self._draw(model, batch, generator)
        return Loss((self.log_z - drawn.log_weight).square().mean(), self._terms(drawn, log_z=self.log_z))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TrajectoryBalance, nn.Module, Batch]]:
        flow = build({"name": "diffusion_sampler", "target": {"name": "standard_normal", "shape": (2,)}, "steps": 6, "sigma": 2.0, "width": 8}, Flow)
        yield "normal", cls(flow.target, start=1.0), flow, Batch(size=32)  # type: ignore[arg-type]
