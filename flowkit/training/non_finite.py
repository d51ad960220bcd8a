"""What happens when a loss or a gradient is not finite."""

from __future__ import annotations

import torch
from torch import nn

from flowkit.core.checks import checks
from flowkit.core.errors import NonFiniteError
from flowkit.core.objective import Batch, Objective

MOST_SKIPPED_IN_A_ROW = 50


def explain(model: nn.Module, objective: Objective, batch: Batch, generator: torch.Generator | None, phase: str, step: int, what: str) -> NonFiniteError:
    """The error for a step gone wrong: run the loss once more with every layer watched, and name the first bad one."""
    culprit = _bad_parameter(model)
    if culprit is None:
        try:
            with checks(values=True, finite=True), torch.no_grad():
                objective.loss(model, batch, generator, phase=phase)
        except Exception as error:  # whatever the watched run raises first is the explanation
            culprit = str(error)
    if culprit is None and what == "the loss":
        culprit = "every layer's output is finite, so the objective itself gave it (events outside the support have log_prob -inf)."
    where = culprit or "every layer's output is finite; the gradient overflows."
    return NonFiniteError(f"fit: {what} is NaN or infinite at step {step}: {where} Lower lr, set clip=, check the data, or pass non_finite='skip'.")


def _bad_parameter(model: nn.Module) -> str | None:
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"parameter '{name}' is not finite."
    return None
