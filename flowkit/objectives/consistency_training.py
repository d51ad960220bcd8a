"""Consistency training, beside which mean flows are judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive, positive_number, positive_sizes
from flowkit.objectives._ends import batch_mean, continuous_flow, ends_of, on_line, over_event, squares, uniform_times
from flowkit.objectives._label_drop import checked_share, seen_context


@OBJECTIVES.register("consistency_training")
class ConsistencyTraining(Objective):
    """Make neighbouring points of a path agree on the data they lead to; without a teacher and without averaged target weights.

        f(t, x) = c_skip x + c_out F(t, x),   c_skip = 1, c_out = 1 - t, F(t, x) = u(t, 1, x), so f(1, x) = x
        loss = mean of N d(f(t, x_t), sg f(t', x_t')) + velocity_weight mean |u(t, t, x_t) - (x1 - x0)|^2,   t' = t + 1/N

    x_t and x_t' lie on the same straight path; t is uniform on the grid 0, 1/N, .., in the second term a time of its own, uniform on [0, 1);
    d(a, b) = sqrt(|a - b|^2 + c^2) - c (pseudo-Huber). N grows by doublings from the first of ``intervals`` to the second over ``growth_steps``
    steps: coarse grids have bias, fine ones variance.

    Consistency alone says nothing about a density. The second term trains the velocity u(t, t, x), which ``log_prob`` integrates, as flow
    matching does; with ``velocity_weight=0`` only ``sample(..., steps=1)`` and ``sample(..., steps=2, renoise=True)`` mean anything.
    Cost: four passes.

    Args:
        intervals: N at the start and at the end.
        growth_steps: optimiser steps over which it grows.
        huber: c, in units of sqrt(d).
        velocity_weight: >= 0.
        label_drop: share of the rows trained without their context, for classifier-free guidance of the ODE (``flow.guided(scale)``).

    Raises:
        ConfigError: the model has no average velocity; labels to drop without a context.

    Reference: Song et al. (2023), Consistency Models, arXiv:2303.01469; Song and Dhariwal (2023), Improved Techniques for Training Consistency
    Models, arXiv:2310.14189 (targets without averaging, doublings, pseudo-Huber).
    """

    requires = frozenset({"data"})
    step: Tensor

    def __init__(
        self, *, intervals: Sequence[int] = (10, 160), growth_steps: int = 4000, huber: float = 0.03, velocity_weight: float = 1.0, label_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.label_drop = checked_share(label_drop, "ConsistencyTraining")
        self.intervals = positive_sizes(intervals, "ConsistencyTraining", "intervals")
        self.growth_steps = positive(growth_steps, "ConsistencyTraining", "growth_steps")
        self.huber, self.velocity_weight = positive_number(huber, "ConsistencyTraining", "huber"), velocity_weight
        if len(self.intervals) != 2 or self.intervals[0] > self.intervals[1]:
            raise ConfigError(f"ConsistencyTraining: expected intervals to be two ints, the first not larger; got {intervals!r}. Pass e.g. (10, 160).")
        if not (math.isfinite(velocity_weight) and velocity_weight >= 0):
            raise ConfigError(f"ConsistencyTraining: expected a finite velocity_weight >= 0; got {velocity_weight!r}.")
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = continuous_flow(model, "ConsistencyTraining", needs="average_velocity", build="flows.AverageVelocityFlow")
        ends = ends_of(flow, batch, generator, "ConsistencyTraining")
        context = seen_context(self, flow, batch.context, ends.x1, generator)
        count = self.count().to(ends.x1)
        t = (uniform_times(ends.x1, generator) * count).floor() / count
        later = (t + 1 / count).clamp(max=1.0)
        x = on_line(t, ends)
        with torch.no_grad():
            target = self.consistency(flow.field, later, on_line(later, ends), context)
        scale = self.huber * math.sqrt(ends.x1[0].numel())
        apart = (squares(self.consistency(flow.field, t, x, context) - target) + scale**2).sqrt() - scale
        consistency = count * batch_mean(apart, batch)
        anywhen = uniform_times(ends.x1, generator)  # the density reads the velocity at all times, not at those of the grid
        velocity = batch_mean(squares(flow.field.velocity(anywhen, on_line(anywhen, ends), context) - (ends.x1 - ends.x0)), batch)
        terms = {"consistency": consistency.detach(), "velocity_error": velocity.detach(), "intervals": count.detach()}
        return Loss(consistency + self.velocity_weight * velocity, terms)

    @staticmethod
    def consistency(field: Any, t: Tensor, x: Tensor, context: Any = None) -> Tensor:
        """f(t, x) = x + (1 - t) u(t, 1, x): the data that x at time t leads to, (B, *event)."""
        return x + over_event(1 - t, x) * field.average_velocity(t, torch.ones_like(t), x, context)

    def count(self) -> Tensor:
        """The number N of intervals at this step: ()."""
        first, last = self.intervals
        stages = math.ceil(math.log2(last / first)) + 1
        stage = torch.div(self.step * stages, self.growth_steps, rounding_mode="floor").clamp(max=stages - 1)
        return (first * 2**stage).clamp(max=last)

    def on_step_end(self, model: nn.Module, step: int) -> None:
        self.step.fill_(step)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ConsistencyTraining, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 2.0 + 0.5 * torch.randn(64, 2, generator=generator)
        flow = {"name": "average_velocity_flow", "features": 2, "hidden": (16, 16)}
        yield "gaussian", cls(), build(flow, Flow), Batch(x)
        yield "conditional", cls(intervals=(4, 4), velocity_weight=0.5), build(flow | {"context_features": 1}, Flow), Batch(x, x[:, :1] - 2.0)
