"""Times, spans and laws that objectives of continuous flows are trained at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.objective import Batch
from flowkit.distributions import DiagonalNormal
from flowkit.flows import AverageVelocityFlow, ContinuousFlow
from flowkit.objectives import ConsistencyTraining, FlowMatching, Reflow


def test_spans_other_than_one() -> None:
    """Paths run from t = 0 to 1: a flow that is followed for another time is refused, a learned span too."""
    with pytest.raises(ConfigError, match=r"expected a flow of duration 1.*got 2\. Use ContinuousLikelihood"):
        FlowMatching().loss(ContinuousFlow(2, hidden=(4, 4), duration=2.0), Batch(torch.zeros(3, 2)))
    learned = ContinuousFlow(2, hidden=(4, 4))
    learned.bijector.time_span.fill_(0.5)  # type: ignore[operator, union-attr]
    with pytest.raises(ConfigError, match=r"expected a flow of duration 1.*got 0\.5"):
        FlowMatching().loss(learned, Batch(torch.zeros(3, 2)))


def test_velocity_is_trained_at_all_times() -> None:
    """continuous-C.5: the second term is flow matching's own, so its times are not those of the consistency grid."""
    flow: Any = AverageVelocityFlow(2, hidden=(8, 8))
    seen: list[Tensor] = []
    inner = flow.field.velocity
    flow.field.velocity = lambda t, x, context=None: (seen.append(t), inner(t, x, context))[1]  # type: ignore[func-returns-value]
    loss = ConsistencyTraining(intervals=(2, 2)).loss(flow, Batch(torch.randn(500, 2)), torch.Generator().manual_seed(0))
    assert loss.value.isfinite() and len(seen) == 1
    assert len(seen[0].unique()) > 400 and abs(float(seen[0].mean()) - 0.5) < 0.06


def test_reflow_needs_one_law() -> None:
    """The model's base must be the teacher's in its numbers too, not only in its kind."""

    def flow(shift: float) -> ContinuousFlow:
        base = DiagonalNormal((2,))
        with torch.no_grad():
            for number in base.state_dict().values():
                number.add_(shift)
        return ContinuousFlow(2, hidden=(8,), solver="rk4", steps=2, base=base)

    objective = Reflow(flow(0.0))
    assert objective.loss(flow(0.0), Batch(size=4)).value.isfinite()
    with pytest.raises(ConfigError, match="another law than the teacher's"):
        objective.loss(flow(3.0), Batch(size=4))
