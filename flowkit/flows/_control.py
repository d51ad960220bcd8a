"""Controls of a diffusion: what is added to the drift of its reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.vector_field import VectorField
from flowkit.nets import FourierMLP
from flowkit.objectives._energies import evaluate

Plan = tuple[Tensor, ...]  # what a control knows of each time before it sees a place: (N, ...) each


class LangevinControl(nn.Module):
    """u(t, x) = f(t, x) + g(t) s, with s the target's score; f, a ``FourierMLP``, starts at 0 and g at 0.01.

    Args:
        features: D of flattened events; width: of both networks; clip: bound of every coordinate of f.
    """

    needs_score = True

    def __init__(self, features: int, width: int, clip: float) -> None:
        super().__init__()
        self.drift, self.scale, self.clip = FourierMLP(features, features, width), FourierMLP(0, 1, width, depth=1), clip
        nn.init.constant_(self.scale.last.bias, 0.01)

    def plan(self, times: Tensor) -> Plan:
        """The embedded times and g: (N, width) and (N, 1)."""
        return self.drift.embed(times), self.scale(None, times)

    def forward(self, plan: Plan, x: Tensor, score: Tensor) -> Tensor:
        """u at places (*B, D), for the rows of a plan that broadcast against *B."""
        embedded, scale = plan
        return self.drift.at(embedded, x).clamp(-self.clip, self.clip) + scale * score


class FieldControl(nn.Module):
    """u(t, x) of a velocity field; the target's score is not used.

    Args:
        field: u, on events.
    """

    needs_score = False

    def __init__(self, field: VectorField) -> None:
        super().__init__()
        self.field = field

    def plan(self, times: Tensor) -> Plan:
        """The times: (N)."""
        return (times,)

    def forward(self, plan: Plan, x: Tensor, score: Tensor | None) -> Tensor:
        """u at places (*B, D)."""
        events = x.unflatten(-1, self.field.event_shape)  # type: ignore[arg-type]
        t = plan[0] if plan[0].dim() == 0 else plan[0].expand(x.shape[:-1])
        out: Tensor = self.field.velocity(t, events)
        return out.reshape(x.shape)


def every(plan: Plan) -> Plan:
    """A plan for all times at once, against places (N, B, D)."""
    return tuple(part.unsqueeze(1) for part in plan)


def at(plan: Plan, step: int) -> Plan:
    """A plan for one of the times, against places (B, D)."""
    return tuple(part[step] for part in plan)


def score_in_graph(target: Any, x: Tensor, who: str) -> Tensor:
    """The target's score as a function of x (*B, *event) that can be differentiated again, where its log_density can be twice."""
    with torch.enable_grad():
        value = target.log_density(x)
        if isinstance(value, Tensor) and value.requires_grad:
            slope = torch.autograd.grad(value.sum(), x, create_graph=True, allow_unused=True)[0]
            if slope is not None:
                return slope
    found = evaluate(target, x, who=who, score=True).score  # says what is missing, or takes the target's own score as a constant
    assert found is not None
    return found
