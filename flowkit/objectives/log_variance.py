"""Training of diffusion samplers by the variance of their log weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.target import Target
from flowkit.objectives._balance import PathObjective


@OBJECTIVES.register("log_variance")
class LogVariance(PathObjective):
    """The log-variance divergence of a diffusion sampler's paths: Var(log w), zero exactly where the sampler is the target's (VarGrad).

        log w = log mu(x_N) + sum_n log P_B(x_n | x_{n+1}) - log P_F(x_{n+1} | x_n)

    The variance is the unbiased one of a batch, over paths drawn without a graph, with any volatility: trajectory balance with log Z the mean
    of each batch, so that none has to be learned.

    Args:
        target: mu.
        exploration: volatility that paths are drawn with; None for the sampler's own.

    Reference: Richter et al. (2020), VarGrad, arXiv:2010.10436; Richter and Berner (2024), Improved sampling via learned diffusions,
    arXiv:2307.01198.
    """

    def __init__(self, target: Target | Distribution, *, exploration: float | None = None) -> None:
        super().__init__(target, exploration)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        if batch.size == 1:
            raise ConfigError("LogVariance: expected at least 2 paths, a variance needs them; got 1. Raise batch_size.")
        drawn = self._draw(model, batch, generator)
        return Loss(drawn.log_weight.var(), self._terms(drawn))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LogVariance, nn.Module, Batch]]:
        flow = build({"name": "diffusion_sampler", "target": {"name": "standard_normal", "shape": (2,)}, "steps": 6, "sigma": 2.0, "width": 8}, Flow)
        yield "normal", cls(flow.target), flow, Batch(size=32)  # type: ignore[arg-type]
