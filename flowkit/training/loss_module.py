"""The module that is wrapped for data parallelism: its forward is the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.training.compile import compile


class LossModule(nn.Module):
    """Model and objective as one module, so that data-parallel wrappers see every parameter they must.

    Args:
        model, objective: as given to ``fit``.
        bf16: run networks under bf16 autocast.
    """

    def __init__(self, model: nn.Module, objective: Objective, *, bf16: bool = False) -> None:
        super().__init__()
        self.model, self.objective, self.bf16 = model, objective, bf16

    def compiled(self) -> LossModule:
        """The same loss of the compiled model, whose parameters it shares; in training mode, as this one is in ``fit``."""
        return LossModule(compile(self.model), self.objective, bf16=self.bf16)

    def forward(
        self, x: Tensor | None, context: Any, size: int | None, index: Tensor | None, extra: dict[str, Tensor], generator: torch.Generator | None, phase: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss value () and terms of a batch."""
        batch = Batch(x, context, size, index, extra)
        if not self.bf16:
            loss = self.objective.loss(self.model, batch, generator, phase=phase)
        else:
            device = x.device.type if x is not None else next(self.model.parameters()).device.type
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = self.objective.loss(self.model, batch, generator, phase=phase)
        self._check(loss)
        return loss.value, dict(loss.terms)

    def _check(self, loss: Any) -> None:
        who = f"{type(self.objective).__name__}.loss"
        if not isinstance(loss, Loss):
            raise ConfigError(f"{who}: expected a Loss; got {type(loss).__name__}. Return Loss(value, terms).")
        if loss.value.dim() != 0:
            raise ConfigError(f"{who}: expected a scalar value; got shape {tuple(loss.value.shape)}. Take the mean over the batch.")
        if self.training and torch.is_grad_enabled() and not loss.value.requires_grad:
            raise ConfigError(f"{who}: the value does not depend on any parameter. Draw with rsample or sample_and_log_prob, not sample.")
