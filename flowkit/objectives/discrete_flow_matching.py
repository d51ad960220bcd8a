"""Discrete flow matching."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.numerics.ctmc import generalized_kl
from flowkit.objectives._ends import batch_mean
from flowkit.objectives._label_drop import drop_contexts


@OBJECTIVES.register("discrete_flow_matching")
class DiscreteFlowMatching(Objective):
    """Prediction of the data from a state of the path, for a ``DiscreteFlow``: nats per event.

        cross_entropy:   -E_t sum over tokens of log p(x1 | x_t),   t uniform
        generalized_kl:  E_t kappa'/(1 - kappa) sum over tokens of [-p(x_t) + 1{x_t = x1} - 1{x_t != x1} log p(x1)]

    Both are least at the true posterior. The second is the bound that the flow's ``log_prob`` is, so it is comparable between flows and
    does not depend on the schedule; its times have 1 - kappa = u^2, u uniform, which makes its variance finite. Times are spread evenly
    over the batch. Weights of rows, ``extra["weight"]``, count as in ``MaximumLikelihood``.

    Args:
        criterion: "cross_entropy" or "generalized_kl".
        label_drop: share of rows whose label is dropped while training, for guidance; the flow then needs ``classes``.

    Reference: Gat et al. (2024), Discrete flow matching, arXiv:2407.15595, equation 27; Shaul et al. (2024), Flow matching
    with general discrete paths, arXiv:2412.03487, section 6, for the second.
    """

    def __init__(self, *, criterion: Literal["cross_entropy", "generalized_kl"] = "cross_entropy", label_drop: float = 0.0) -> None:
        super().__init__()
        if criterion not in ("cross_entropy", "generalized_kl"):
            raise ConfigError(f"DiscreteFlowMatching: expected criterion 'cross_entropy' or 'generalized_kl'; got {criterion!r}.")
        if isinstance(label_drop, bool) or not isinstance(label_drop, int | float) or not 0 <= label_drop < 1:
            raise ConfigError(f"DiscreteFlowMatching: expected label_drop to be a number in [0, 1); got {label_drop!r}.")
        self.criterion, self.label_drop = criterion, label_drop

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = self._discrete_flow(model, batch)
        x1, inside = flow.tokens(batch.x, "DiscreteFlowMatching", batch.index)
        labels = drop_contexts(flow, batch.context, self.label_drop if self.training else 0.0, x1, generator).seen
        dtype = torch.promote_types(flow.like.dtype, torch.float32)
        u = (torch.arange(len(x1), dtype=dtype, device=x1.device) + torch.rand((), generator=generator, dtype=dtype, device=x1.device)) / max(1, len(x1))
        u = u.clamp_min(torch.finfo(dtype).eps)
        noise = u.square() if self.criterion == "generalized_kl" else 1 - (1 - u) ** flow.power
        x_t = flow.corrupt(x1, noise, generator)
        log_p = flow.log_posterior(x_t, noise, labels)
        if self.criterion == "cross_entropy":
            return Loss(batch_mean(torch.where(inside, -log_p.gather(-1, x1.unsqueeze(-1)).flatten(1).sum(1), torch.nan), batch))
        value = batch_mean(torch.where(inside, 2 / u * generalized_kl(log_p, x_t, x1).sum(-1), torch.nan), batch)
        return Loss(value, {"bits_per_token": value.detach() / (x1.shape[-1] * math.log(2))})

    def _discrete_flow(self, model: nn.Module, batch: Batch) -> Any:
        if not all(hasattr(model, name) for name in ("tokens", "corrupt", "log_posterior", "power")):
            raise ConfigError(f"DiscreteFlowMatching: expected a flow over tokens; got {type(model).__name__}. Use flows.DiscreteFlow.")
        if batch.x is None:
            raise ConfigError("DiscreteFlowMatching: expected a batch of data; got none. Pass the source to fit.")
        if self.label_drop and batch.context is None:
            raise ConfigError("DiscreteFlowMatching: label_drop needs labels; got none. Build the flow with classes= and give (x, labels).")
        return model

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiscreteFlowMatching, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        first = torch.randint(4, (64, 1), generator=generator)
        x, labels = torch.cat([first, (first + 1) % 4, first // 2], dim=-1), (first[:, 0] > 1).long()
        flow: dict[str, Any] = {"name": "discrete_flow", "features": 3, "levels": 4, "hidden": (16,)}
        yield "mask", cls(), build(flow, Flow), Batch(x)
        uniform = build(flow | {"source": "uniform", "classes": 2, "power": 2.0}, Flow)
        yield "uniform", cls(criterion="generalized_kl", label_drop=0.2), uniform, Batch(x.double(), labels)
        yield "mask_bound", cls(criterion="generalized_kl"), build(flow, Flow), Batch(x)
