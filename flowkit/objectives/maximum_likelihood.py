"""Maximum likelihood."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.objectives._likelihood import negative_log_likelihood


@OBJECTIVES.register("maximum_likelihood", "mle")
class MaximumLikelihood(Objective):
    """Mean negative log-likelihood of the batch, in nats; -mean(w log p) if the batch carries weights w, ``extra["weight"]`` (B,).

    Minimising it minimises KL(data || model): it is ``ForwardKL(gradient="ml")`` by its usual name. Weights of mean 1 over the whole data, as
    ``fit`` gives them, keep the batches' losses unbiased; dividing by each batch's own sum would not.
    """

    requires = frozenset({"data"})

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        return negative_log_likelihood(model, batch, generator)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MaximumLikelihood, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 2.0 + 0.5 * torch.randn(64, 2, generator=generator)
        base, affine = {"name": "standard_normal", "shape": (2,)}, {"name": "affine", "shape": (2,)}
        yield "gaussian", cls(), build({"name": "flow", "base": base, "bijector": affine}, Flow), Batch(x)
        coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 1}
        model = build({"name": "flow", "base": base, "bijector": coupling}, Flow)
        yield "weighted_conditional", cls(), model, Batch(x, x[:, :1] - 2.0, extra={"weight": torch.rand(64, generator=generator)})
