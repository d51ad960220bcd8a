"""Training of diffusion samplers by all parts of their paths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive_number
from flowkit.core.target import Target
from flowkit.objectives._balance import FlowObjective, subtrajectory_weights, weighted_differences


@OBJECTIVES.register("subtrajectory_balance", "subtb")
class SubtrajectoryBalance(FlowObjective):
    """Balance of every part of a diffusion sampler's paths, with a learned flow function F.

        delta_mn = log F_m(x_m) - log F_n(x_n) + sum_{l=m}^{n-1} log P_F(x_{l+1} | x_l) - log P_B(x_l | x_{l+1})
        loss = mean sum_{m<n} decay^(n-m) delta_mn^2 / sum_{m<n} decay^(n-m)

        log F_n(x) = f(t_n, x) + (1 - n/N) log p_n(x) + (n/N) log mu(x),   log F_N = log mu

    p_n is the marginal of the sampler without control, its variance at least that at 0.01 T, and f a ``FourierMLP`` that starts at 0;
    log F_0 learns log Z. Paths are drawn without a graph, with any volatility; gradients flow through P_F and F alone, and the memory
    of drawing does not grow with the networks. decay to 0 is detailed balance, to infinity trajectory balance. log mu is at least -1e6;
    places where it is not finite count as that, and ``not_finite`` says how many of them there are.

    Args:
        target: mu.
        decay: weight of a part for each further step, > 0.
        exploration: volatility that paths are drawn with; None for the sampler's own.
        width: of f.
        lr_scale: learning rate of F beside that of the sampler.
        log_flow: a module (t (N, 1), x (N, B, *event)) -> (N, B) that is log F_n for n < N in place of the formula.

    Reference: Zhang et al. (2024), Diffusion generative flow samplers, arXiv:2310.02679; Madan et al. (2023), Learning GFlowNets from
    partial episodes, arXiv:2209.12782.
    """

    def __init__(
        self,
        target: Target | Distribution,
        decay: float = 2.0,
        *,
        exploration: float | None = None,
        width: int = 64,
        lr_scale: float = 10.0,
        log_flow: nn.Module | None = None,
    ) -> None:
        super().__init__(target, exploration, width, lr_scale, log_flow)
        self.decay = positive_number(decay, "SubtrajectoryBalance", "decay")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        drawn = self._draw(model, batch, generator)
        potentials = self._potentials(model, drawn)
        weights = subtrajectory_weights(len(drawn.log_ratio), self.decay, potentials)
        return Loss(weighted_differences(potentials, weights).mean(), self._terms(drawn, log_z=potentials[0].mean()))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SubtrajectoryBalance, nn.Module, Batch]]:
        flow = build({"name": "diffusion_sampler", "target": {"name": "standard_normal", "shape": (2,)}, "steps": 6, "sigma": 2.0, "width": 8}, Flow)
        yield "normal", cls(flow.target, width=8), flow, Batch(size=32)  # type: ignore[arg-type]
        yield "exploring", cls(flow.target, 0.9, exploration=1.5, width=8), flow, Batch(size=32)  # type: ignore[arg-type]
