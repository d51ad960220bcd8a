"""Training of diffusion samplers through their paths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.target import Target
from flowkit.objectives._balance import PathObjective, Paths
from flowkit.objectives._energy_objective import one_of


@OBJECTIVES.register("path_integral")
class PathIntegral(PathObjective):
    """Reverse Kullback-Leibler divergence of a diffusion sampler's paths, differentiated through them (PIS).

        loss = E[sum_n log P_F(x_{n+1} | x_n) - log P_B(x_n | x_{n+1}) - log mu(x_N)] >= -log Z

    The other objectives of paths draw without a graph; here one runs through all steps, and memory grows with them.

    Args:
        target: mu.
        score: "exact" differentiates the target's score in the control too, by second derivatives; "stopped" takes it as a constant, as published:
            cheaper, but no longer the gradient of the loss.

    Reference: Zhang and Chen (2022), Path integral sampler, arXiv:2111.15141.
    """

    def __init__(self, target: Target | Distribution, *, score: Literal["exact", "stopped"] = "exact") -> None:
        super().__init__(target, None)
        one_of(score, ("exact", "stopped"), self.who, "score")
        self.score = score

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        sampler, size = self._sampler(model, batch)
        path = sampler.rollout(size, along=False, graph=True, score_graph=self.score == "exact", generator=generator)
        log_mu, bad = self._log_mu(sampler, path)
        drawn = Paths(path, path.log_pf - path.log_pb, log_mu, bad)
        return Loss(-drawn.log_weight.mean(), self._terms(drawn))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, PathIntegral, nn.Module, Batch]]:
        flow = build({"name": "diffusion_sampler", "target": {"name": "standard_normal", "shape": (2,)}, "steps": 6, "sigma": 2.0, "width": 8}, Flow)
        yield "normal", cls(flow.target), flow, Batch(size=32)  # type: ignore[arg-type]
        yield "stopped", cls(flow.target, score="stopped"), flow, Batch(size=32)  # type: ignore[arg-type]
