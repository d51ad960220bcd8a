"""Training of diffusion samplers step by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.target import Target
from flowkit.objectives._balance import FlowObjective


@OBJECTIVES.register("detailed_balance")
class DetailedBalance(FlowObjective):
    """Balance of every step of a diffusion sampler's paths, with a learned flow function F as in ``SubtrajectoryBalance``.

        loss = mean over n and paths of (log F_n(x_n) P_F(x_{n+1} | x_n) - log F_{n+1}(x_{n+1}) P_B(x_n | x_{n+1}))^2

    Args:
        target, exploration, width, lr_scale, log_flow: as in ``SubtrajectoryBalance``.

    Reference: Bengio et al. (2023), GFlowNet foundations, arXiv:2111.09266, definition of detailed balance.
    """

    def __init__(
        self,
        target: Target | Distribution,
        *,
        exploration: float | None = None,
        width: int = 64,
        lr_scale: float = 10.0,
        log_flow: nn.Module | None = None,
    ) -> None:
        super().__init__(target, exploration, width, lr_scale, log_flow)

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        drawn = self._draw(model, batch, generator)
        potentials = self._potentials(model, drawn)
        return Loss(potentials.diff(dim=0).square().mean(), self._terms(drawn, log_z=potentials[0].mean()))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DetailedBalance, nn.Module, Batch]]:
        flow = build({"name": "diffusion_sampler", "target": {"name": "standard_normal", "shape": (2,)}, "steps": 6, "sigma": 2.0, "width": 8}, Flow)
        yield "normal", cls(flow.target, width=8), flow, Batch(size=32)  # type: ignore[arg-type]
