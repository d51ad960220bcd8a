"""What is said of solutions that could not be followed to their end."""

from __future__ import annotations

from typing import Any

import torch

from flowkit.core.errors import IntegrationError, NonFiniteError

DONE, TOO_MANY_STEPS, STEP_TOO_SMALL, NOT_FINITE = 0, 1, 2, 3


def report(stats: Any, max_steps: int, per_sample: bool, who: str) -> None:
    """Raise if a sample failed.

    Args:
        stats: with ``status`` and ``reached``, tensors (R,); a time that is not known is NaN.
        max_steps: the limit that was set.
        per_sample: whether a row is a sample, or the whole state.
        who: named first.

    Raises:
        IntegrationError, NonFiniteError: naming time, sample and remedy.
    """
    failed = torch.atleast_1d(stats.status).nonzero().squeeze(1)
    if not len(failed):
        return
    first = int(failed[0])
    status, reached = torch.atleast_1d(stats.status), torch.atleast_1d(stats.reached)
    reason, time = int(status[first]), float(reached[first])
    where = f" at t = {time:.6g}" if time == time else ""
    which = f"sample {first}, {len(failed)} of {len(status)} samples" if per_sample else "the whole state, integrated jointly"
    if reason == NOT_FINITE:
        after = where.replace(" at", " after")
        raise NonFiniteError(f"{who}: the field or the state is not finite{after} ({which}). Check the field and the input there, or their scale.")
    if reason == STEP_TOO_SMALL:
        raise IntegrationError(f"{who}: the step fell to rounding{where} ({which}). Loosen rtol and atol, or smooth the field.")
    raise IntegrationError(
        f"{who}: more than max_steps = {max_steps} steps, stopped{where} ({which}). The equation is stiff there: loosen rtol and atol, or raise max_steps."
    )
