"""The gradient in a continuous flow's time span under STEER and weights, and its average."""

from __future__ import annotations

import pytest
import torch

from flowkit.core.objective import Batch
from flowkit.flows import ContinuousFlow
from flowkit.objectives import TemporalOptimization

D = torch.float64


def small(**options: object) -> ContinuousFlow:
    torch.manual_seed(0)
    flow = ContinuousFlow(3, hidden=(16, 16), standardize=False, **options).to(D)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return flow


def test_gradient_of_the_span_drawn_and_weighted() -> None:
    """continuous-B.7.1 with STEER and weights: g is the derivative of the weighted loss at the span that was drawn."""
    flow, generator = small(solver="rk4", steps=20, per_sample=False), torch.Generator().manual_seed(2)
    x, weight = torch.randn(64, 3, dtype=D, generator=generator), torch.rand(64, dtype=D, generator=generator)
    objective = TemporalOptimization(alpha=0.1, kinetic=0.3, steer=0.5).to(D)
    batch = Batch(x, extra={"weight": weight})
    with torch.no_grad():
        drawn = float(objective.span(flow, torch.Generator().manual_seed(5)))  # type: ignore[arg-type]
        found = float(objective.loss(flow, batch, torch.Generator().manual_seed(5)).terms["duration_gradient"])
        quiet, values = TemporalOptimization(alpha=0.1, kinetic=0.3, mode="off").to(D), []
        for span in (drawn + 1e-4, drawn - 1e-4):
            flow.bijector.time_span.fill_(span)  # type: ignore[operator, union-attr]
            values.append(float(quiet.loss(flow, batch).value))
    assert abs(drawn - 1) > 0.05
    assert found == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)


def test_average_of_the_span() -> None:
    """continuous-B.3: in evaluation T is its moving average."""
    flow, objective = small(), TemporalOptimization(alpha=100.0, lr=1.0, warmup=0, bounds=(0.5, 2.0)).to(D)
    objective.use_average(flow)
    assert float(flow.bijector.time_span) == 1.0  # type: ignore[arg-type]
    wanted = None
    for step in range(4):
        objective.loss(flow, Batch(torch.randn(8, 3, dtype=D)))
        objective.on_step_end(flow, step)
        span = float(flow.bijector.time_span)  # type: ignore[arg-type]
        wanted = span if wanted is None else 0.9 * wanted + 0.1 * span
    objective.use_average(flow)
    assert float(flow.bijector.time_span) == pytest.approx(wanted) and span < 0.93 < float(flow.bijector.time_span)  # type: ignore[arg-type]
