"""Rectified flow: straighten a flow's trajectories by training on its own pairs of noise and data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from flowkit.core.build import build
from flowkit.core.checks import may_raise
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive
from flowkit.numerics.ode import solve
from flowkit.objectives._ends import Ends, base_draws, batch_mean, continuous_flow, on_line, squares, uniform_times


@OBJECTIVES.register("reflow")
class Reflow(Objective):
    """Regress v on x1 - x0 along the line between noise x0 and the data x1 = teacher(x0) that a trained flow makes of it.

        loss = mean over elements of |v(t, (1 - t) x0 + t x1) - (x1 - x0)|^2,   straightness = E |v - (x1 - x0)|^2

    Lines between such pairs cross less than between independent ones, so the trained trajectories are straighter and few Euler steps suffice:
    ``flow.with_solver(solver="euler", steps=k)``. Pairs are drawn afresh for every step from the objective's own frozen copy of the teacher, and no
    data are needed; ``fit(model, None, Reflow(teacher))``, with the model best started as a copy of the teacher. A conditional teacher
    needs a source of ``(x, context)``, of which the contexts are used. ``straightness`` is logged.
    Cost of a step: one solution of the teacher's ODE without gradients (choose its solver by ``teacher.with_solver(...)``), and one pass.

    Args:
        teacher: a trained flow with the model's base, usually a ``ContinuousFlow``; copied.
        distill: k, to train the velocity only at times 0, 1/k, .., (k - 1)/k, where k Euler steps evaluate it; 1 distils into one step. The flow's
            ``log_prob`` is then of no meaning. Default: all times.

    Raises:
        ConfigError: the model is no continuous flow, or has another base than the teacher.

    Reference: Liu, Gong and Liu (2022), Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow, arXiv:2209.03003.

    Example:
        >>> import copy, flowkit as fk
        >>> teacher = fk.flows.ContinuousFlow(2, hidden=(8, 8), solver="rk4", steps=4)
        >>> student = copy.deepcopy(teacher)
        >>> _ = fk.fit(student, None, fk.objectives.Reflow(teacher), max_steps=2, seed=0, progress=False)
        >>> student.with_solver(solver="euler", steps=1).sample(3).shape
        torch.Size([3, 2])
    """

    requires = frozenset()

    def __init__(self, teacher: Flow, *, distill: int | None = None) -> None:
        super().__init__()
        if not isinstance(teacher, Flow):
            raise ConfigError(f"Reflow: expected a trained flow as teacher; got {type(teacher).__name__}.")
        self.teacher = copy.deepcopy(teacher).requires_grad_(False).eval()
        self.distill = None if distill is None else positive(distill, "Reflow", "distill")

    def train(self, mode: bool = True) -> Reflow:
        """The teacher stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = continuous_flow(model, "Reflow")
        ends, context = self.pairs(flow, batch, generator), flow.embed_context(batch.context)
        t = uniform_times(ends.x1, generator)
        t = t if self.distill is None else (t * self.distill).floor() / self.distill
        error = squares(flow.field.velocity(t, on_line(t, ends), context) - (ends.x1 - ends.x0))
        straightness = batch_mean(error, batch)
        return Loss(straightness / ends.x1[0].numel(), {"straightness": straightness.detach()})

    @torch.no_grad()
    def pairs(self, flow: Any, batch: Batch, generator: torch.Generator | None = None) -> Ends:
        """As many pairs as the batch asks for, in the model's field space."""
        self._check(flow, batch)
        n = batch.size if batch.x is None else len(batch.x)
        x0 = base_draws(self.teacher, positive(n, "Reflow", "the batch's size"), batch.context, generator)
        return Ends(x0, flow.endpoint(self.teacher.to_data(x0, batch.context), batch.context))

    @staticmethod
    @torch.no_grad()
    def straightness(flow: Any, n: int = 1000, *, steps: int = 100, context: Any = None, generator: torch.Generator | None = None) -> float:
        """S = int E |x1 - x0 - v(t, x_t)|^2 dt along the flow's own trajectories; 0 where all are straight at constant speed.

        Args:
            flow: a continuous flow. n: trajectories. steps: of the fourth-order Runge-Kutta method, and points of the trapezoid rule.
            context: one for all, or (n, ...).
        """
        x0 = base_draws(flow, n, context, generator)
        context, times = flow.embed_context(context), torch.linspace(0, 1, steps + 1, dtype=x0.dtype, device=x0.device)
        path = solve(lambda t, x: flow.field.velocity(t, x, context), x0, times, method="rk4", steps=1).ys
        bent = torch.stack([squares(path[-1] - path[0] - flow.field.velocity(t, x, context)).mean() for t, x in zip(times, path, strict=True)])
        return float(torch.trapezoid(bent, times))

    def _check(self, flow: Any, batch: Batch) -> None:
        mine, other = self.teacher.base, flow.base
        if type(mine) is not type(other) or mine.event_shape != other.event_shape:
            laws = f"the teacher's base is {type(mine).__name__}{mine.event_shape}, the model's {type(other).__name__}{other.event_shape}"
            raise ConfigError(f"Reflow: {laws}; they must be one law. Start the model as a copy of the teacher.")
        if not _same_law(mine, other):
            raise ConfigError("Reflow: the model's base is another law than the teacher's. Start the model as a copy of the teacher, with a base that stays.")
        if self.teacher.context_shape is not None and batch.context is None:
            raise ConfigError("Reflow: the teacher is conditional and the batch has no context. Pass a source of (x, context) to fit.")

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Reflow, nn.Module, Batch]]:
        teacher = {"name": "real_nvp", "features": 2, "layers": 2, "hidden": (8,)}
        flow: dict[str, Any] = {"name": "continuous_flow", "features": 2, "hidden": (16, 16)}
        yield "from_continuous", cls(build(flow | {"hidden": (8, 8), "solver": "rk4", "steps": 4}, Flow)), build(flow, Flow), Batch(size=64)
        context = torch.linspace(-1, 1, 64)[:, None]
        conditional, x = {"context_features": 1}, torch.zeros(64, 2)
        yield "distilled_conditional", cls(build(teacher | conditional, Flow), distill=2), build(flow | conditional, Flow), Batch(x, context)


def _same_law(one: Distribution, other: Distribution) -> bool:
    """Whether two distributions say the same of themselves and, where values may be looked at, hold the same numbers."""
    mine, yours = one.state_dict(), other.state_dict()
    if repr(one) != repr(other) or mine.keys() != yours.keys():
        return False
    return all(torch.equal(mine[name].to(yours[name]), yours[name]) for name in mine if may_raise(yours[name]))
