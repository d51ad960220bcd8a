"""The evidence lower bound of flows with random weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive


@OBJECTIVES.register("evidence_lower_bound", "elbo")
class EvidenceLowerBound(Objective):
    """Variational inference of a ``Bayesian`` flow's weights: -mean E_q[log p(x | w)] + kl_weight KL(q || prior) / rows, in nats.

    The expectation is over the model's q(w), by ``draws`` reparametrised draws a step, each for the whole batch; with
    kl_weight = 1 the loss is the negative evidence lower bound per row of data. Weights of rows, ``extra["weight"]``, count as
    in ``MaximumLikelihood``. Cost: ``draws`` passes of the flow.

    Args:
        rows: number N of rows in the training data.
        draws: draws of the weights a step.
        kl_weight: factor of the divergence, >= 0; below 1 the posterior is "cold", narrower than Bayes's.

    Reference: Blundell et al. (2015), Weight uncertainty in neural networks, arXiv:1505.05424.
    """

    requires = frozenset({"data"})

    def __init__(self, rows: int, *, draws: int = 1, kl_weight: float = 1.0) -> None:
        super().__init__()
        self.rows, self.draws = positive(rows, "EvidenceLowerBound", "rows"), positive(draws, "EvidenceLowerBound", "draws")
        self.kl_weight = kl_weight
        if not (math.isfinite(kl_weight) and kl_weight >= 0):
            raise ConfigError(f"EvidenceLowerBound: expected a finite kl_weight >= 0; got {kl_weight!r}.")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        bayesian: Any = model
        if not hasattr(bayesian, "kl"):
            raise ConfigError(f"EvidenceLowerBound: expected a flow with random weights; got {type(model).__name__}. Wrap it: flows.Bayesian(flow).")
        each: list[Tensor] = [bayesian.log_prob(batch.x, batch.context, generator=generator, weight_draws=1) for _ in range(self.draws)]
        log_prob = torch.stack(each).mean(0)
        weight = batch.extra.get("weight")
        nll = -log_prob.mean() if weight is None else -(weight * log_prob).mean()
        kl: Tensor = bayesian.kl()
        return Loss(nll + self.kl_weight / self.rows * kl, {"nll": nll.detach(), "kl": kl.detach()})

    @classmethod
    def examples(cls) -> Iterator[tuple[str, EvidenceLowerBound, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 2.0 + 0.5 * torch.randn(64, 2, generator=generator)
        base, affine = {"name": "standard_normal", "shape": (2,)}, {"name": "affine", "shape": (2,)}
        flow = {"name": "flow", "base": base, "bijector": affine}
        yield "gaussian", cls(64, draws=2), build({"name": "bayesian", "flow": flow}, Flow), Batch(x)
