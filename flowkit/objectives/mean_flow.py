"""Mean flows: average velocities learned from an identity, for sampling in one step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive_number
from flowkit.objectives._ends import Ends, batch_mean, continuous_flow, ends_of, map_parts, on_line, over_event, squares
from flowkit.objectives._label_drop import Dropped, drop_contexts

WIDE = 64  # numbers in an event from which on the adaptive weight is the default: squared errors of so many vary little about their mean


@OBJECTIVES.register("mean_flow")
class MeanFlow(Objective):
    """Regress the average velocity u(t, r, x), t <= r, on the identity that ties it to the velocity v = x1 - x0 of straight paths.

        u(t, r, x) = v + (r - t) du/dt,   du/dt = du/dt|_(r, x) + (du/dx) v    (derived below)
        loss = mean of |u - sg[v + (r - t) du/dt]|^2 / sg[(|.|^2 + offset)^power]

    Steps. 1. (r - t) u(t, r, x_t) = int_t^r v(s, x_s) ds along a trajectory. 2. Differentiate in t, r fixed: -u + (r - t) du/dt = -v(t, x_t).
    3. So the tangent of (t, r, x) is (1, 0, v). The paper's time runs from data to noise; with 1 - t for its t every sign is as here.

    At r = t the target is v itself, so u(t, t, x) learns the velocity of flow matching, and ``log_prob`` integrates that. Only the other rows
    need the forward-mode product, taken without a graph. Guidance is baked in: v becomes
    guidance v + (1 - guidance - mix) u(t, t, x | none) + mix u(t, t, x | c), of effective scale guidance / (1 - mix), still with one evaluation
    a step. Keep an average of the weights (``fit(..., ema=0.999)``). Cost: two passes, and for a share of the rows some three more.

    Args:
        equal: share of the rows with r = t, in [0, 1).
        power, offset: of the adaptive weight. Power 0 is the plain squared error, whose minimum is the mean velocity; above 0 far targets count less,
            which in few dimensions biases the velocity, and with it ``log_prob``. Default 1, the paper's, for events of 64 numbers or more, else 0.
        time_loc, time_scale: t and r are sigmoid(N(loc, scale^2)), sorted; loc 0.4 is the paper's -0.4 in its reversed time.
        guidance, mix: see above; 1 and 0 mean none.
        label_drop: share of the rows trained without their context; default 0.1 with guidance, else 0.

    Raises:
        ConfigError: the model has no average velocity; guidance without a context.

    Reference: Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv:2505.13447, equations 6, 11, 21 and 22.

    Example:
        >>> import flowkit as fk, torch
        >>> flow, x = fk.flows.AverageVelocityFlow(2, hidden=(16, 16)), torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
        >>> _ = fk.fit(flow, x, fk.objectives.MeanFlow(), max_steps=2, seed=0, progress=False)
        >>> flow.sample(3, steps=1).shape
        torch.Size([3, 2])
    """

    requires = frozenset({"data"})

    def __init__(
        self,
        *,
        equal: float = 0.75,
        power: float | None = None,
        offset: float = 1e-2,
        time_loc: float = 0.4,
        time_scale: float = 1.0,
        guidance: float = 1.0,
        mix: float = 0.0,
        label_drop: float | None = None,
    ) -> None:
        super().__init__()
        self.equal, self.power, self.offset, self.time_loc = equal, power, positive_number(offset, "MeanFlow", "offset"), time_loc
        self.time_scale, self.guidance, self.mix, self.label_drop = positive_number(time_scale, "MeanFlow", "time_scale"), guidance, mix, label_drop
        for name, share in (("equal", equal), ("mix", mix), ("label_drop", 0.0 if label_drop is None else label_drop)):
            if not 0 <= share < 1:
                raise ConfigError(f"MeanFlow: expected {name} in [0, 1); got {share!r}.")
        for name, number in (("power", power or 0.0), ("time_loc", time_loc), ("guidance", guidance)):
            if not math.isfinite(number) or (name == "power" and number < 0):
                raise ConfigError(f"MeanFlow: expected {name} to be a finite number{' >= 0' if name == 'power' else ''}; got {number!r}.")

    @property
    def guided(self) -> bool:
        """Whether guidance is baked in."""
        return self.guidance != 1 or self.mix != 0

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = continuous_flow(model, "MeanFlow", needs="average_velocity", build="flows.AverageVelocityFlow")
        ends = ends_of(flow, batch, generator, "MeanFlow")
        if self.guided and batch.context is None:
            raise ConfigError("MeanFlow: guidance needs a context; got none. Build the flow with classes= or context_features=, or leave guidance=1, mix=0.")
        share = (0.1 if self.guided else 0.0) if self.label_drop is None else self.label_drop
        contexts = drop_contexts(flow, batch.context, share if self.training else 0.0, ends.x1, generator)
        t, r, apart = self._times(ends.x1, generator)
        x = on_line(t, ends)
        with torch.no_grad():
            v = self._velocity(flow.field, t, x, ends, contexts)
            target = self.target(flow.field, t, r, x, v, contexts.seen, apart)
        error = squares(flow.field.average_velocity(t, r, x, contexts.seen) - target)
        power = float(x[0].numel() >= WIDE) if self.power is None else self.power
        weight = (error.detach() + self.offset) ** -power
        terms = {"squared_error": batch_mean(error.detach(), batch)}
        if apart < len(error):
            terms["velocity_error"] = error.detach()[apart:].mean()
        return Loss(batch_mean(weight * error, batch), terms)

    def target(self, field: Any, t: Tensor, r: Tensor, x: Tensor, v: Tensor, context: Any = None, apart: int | None = None) -> Tensor:
        """v + (r - t) du/dt: what u(t, r, x) should be.

        Args:
            field: has ``average_velocity``. t, r: (B). x, v: (B, *event). context: embedded.
            apart: number of leading rows with r > t; the others' target is v. Default all.
        """
        apart = len(x) if apart is None else apart
        if apart == 0:
            return v
        t, r, x = t[:apart], r[:apart], x[:apart]
        part = map_parts(context, lambda c: c[:apart])
        pushed: Any = torch.func.jvp(lambda time, at: field.average_velocity(time, r, at, part), (t, x), (torch.ones_like(t), v[:apart]))
        return torch.cat([v[:apart] + over_event(r - t, x) * pushed[1], v[apart:]])

    def _times(self, like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, int]:
        """t <= r (B), and how many rows, the leading ones, have r > t."""
        normals = torch.randn(2, len(like), generator=generator, dtype=like.dtype, device=like.device)
        times = torch.sigmoid(self.time_loc + self.time_scale * normals)
        apart = math.ceil((1 - self.equal) * len(like))
        t = torch.cat([times[:, :apart].amin(0), times[0, apart:]])
        return t, torch.cat([times[:, :apart].amax(0), times[0, apart:]]), apart

    def _velocity(self, field: Any, t: Tensor, x: Tensor, ends: Ends, contexts: Dropped) -> Tensor:
        """The velocity to learn: that of the path, guided on rows that keep their context."""
        v = ends.x1 - ends.x0
        if not self.guided:
            return v
        guided = self.guidance * v + (1 - self.guidance - self.mix) * field.velocity(t, x, contexts.null)
        if self.mix:
            guided = guided + self.mix * field.velocity(t, x, contexts.given)
        return torch.where(over_event(contexts.mask, v), v, guided)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MeanFlow, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 2.0 + 0.5 * torch.randn(64, 2, generator=generator)
        flow = {"name": "average_velocity_flow", "features": 2, "hidden": (16, 16)}
        yield "gaussian", cls(), build(flow, Flow), Batch(x)
        labels = (x[:, 0] > 2).long()
        yield "guided_classes", cls(guidance=2.0, mix=0.25, power=1.0), build(flow | {"classes": 2}, Flow), Batch(x, labels)
