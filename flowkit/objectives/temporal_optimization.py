"""Learning how long a continuous flow integrates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss
from flowkit.core.registry import OBJECTIVES
from flowkit.core.shapes import positive, positive_number, whole_number
from flowkit.numerics.divergence import PROBED, choose, field_and_divergence, velocity_and_products
from flowkit.objectives._continuous_nll import Followed
from flowkit.objectives.continuous_likelihood import ContinuousLikelihood


@OBJECTIVES.register("temporal_optimization", "to_flow")
class TemporalOptimization(ContinuousLikelihood):
    """The likelihood of a continuous flow with its time span T as a variable: theta steps at fixed T, T steps at fixed theta.

    The gradient in T needs no further solve, only the field at the latent end z of the paths, f(z) = -v(1 - T, z):

        dJ/dT = E[ -score(z) . f - div f ] nll_weight + costs at the latent end + alpha

    with ``score`` the base's. Then T <- clip(T - clip(lr g, +-clip), bounds). At a good fit E[z . f - div f] = 0 whatever the field
    (Stein's identity), so the costs and alpha decide T; and (v, T) is the same flow as v / c over c T, so a smaller T alone does not
    save evaluations. Treat it as an experiment. T wanders from step to step: ``use_average(flow)`` after training sets it to its mean over
    some 10 steps, at which evaluate. With STEER, g is the derivative at the span drawn, an unbiased one of the loss averaged over spans.

    Args:
        alpha: cost of time, added as alpha T.
        lr: rate of the T steps; clip: longest step.
        bounds: smallest and largest T.
        warmup: steps before T moves; every: T moves on every so many steps.
        mode: "coordinate"; "joint" moves T by the optimiser of the weights; "off".
        kinetic, jacobian, hjb, nll_weight, steer: see ``ContinuousLikelihood``.

    Reference: Du et al. (2022), TO-FLOW: efficient continuous normalizing flows with temporal optimization adjoint with moving speed,
    arXiv:2203.14335; the gradient is derived in the module.
    """

    gradient: Tensor
    average: Tensor
    steps_seen: Tensor

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        lr: float = 5e-3,
        clip: float = 0.02,
        bounds: tuple[float, float] = (0.1, 2.0),
        warmup: int = 300,
        every: int = 1,
        mode: Literal["coordinate", "joint", "off"] = "coordinate",
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        hjb: float = 0.0,
        nll_weight: float = 1.0,
        steer: float = 0.0,
    ) -> None:
        super().__init__(kinetic=kinetic, jacobian=jacobian, hjb=hjb, nll_weight=nll_weight, steer=steer)
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigError(f"TemporalOptimization: expected a finite alpha >= 0; got {alpha!r}.")
        if mode not in ("coordinate", "joint", "off"):
            raise ConfigError(f"TemporalOptimization: expected mode 'coordinate', 'joint' or 'off'; got {mode!r}.")
        low, high = bounds
        if not 0 < low < high < float("inf"):
            raise ConfigError(f"TemporalOptimization: expected bounds 0 < low < high; got {bounds!r}.")
        self.alpha, self.lr, self.clip, self.bounds = alpha, positive_number(lr, "TemporalOptimization", "lr"), clip, bounds
        self.warmup, self.every = whole_number(warmup, "TemporalOptimization", "warmup", 0), positive(every, "TemporalOptimization", "every")
        positive_number(clip, "TemporalOptimization", "clip")
        self.mode = mode
        self.register_buffer("gradient", torch.zeros(()))
        self.register_buffer("average", torch.full((), float("nan")))
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))
        self.shift = nn.Parameter(torch.zeros(()), requires_grad=mode == "joint")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        followed = self._follow(model, batch, generator)
        loss = self._loss_of(followed, batch)
        own: Any = model
        span: Tensor = own.bijector.time_span
        value, terms = loss.value + self.alpha * span, {**loss.terms, "duration": span.detach().clone()}
        if self.mode != "off" and self.training:
            with torch.no_grad():
                g = self.time_gradient(own, followed, batch.extra.get("weight"))
            self.gradient.copy_(g)
            terms["duration_gradient"] = g
            if self.mode == "joint":  # of value zero, of gradient g
                value = value + g * (self.shift - self.shift.detach())
        return Loss(value, terms)

    def time_gradient(self, model: Any, followed: Followed, weight: Tensor | None = None) -> Tensor:
        """dJ/dT at the span T that a batch was followed for, its rows weighted (B) as in the loss: ()."""
        bijector, z = model.bijector, followed.latent.detach()
        field, context = bijector.field, followed.context
        t = (1 - followed.span).to(z.dtype)
        mode = choose("hutchinson" if self.jacobian else bijector.divergence, field, z[0].numel(), True)
        rank, products = len(field.event_shape), None
        if self.jacobian:
            assert followed.probes is not None
            vectors = followed.probes.movedim(-rank - 1, 0)
            v, divergence, products = velocity_and_products(lambda y: field.velocity(t, y, context), z, rank, vectors)
        else:
            v, divergence = field_and_divergence(field, t, z, context, mode=mode, probes=followed.probes if mode in PROBED else None)
        with torch.enable_grad():
            point = z.clone().requires_grad_()
            log_prob = model.base.log_prob(point, context if model.base.context_shape is not None else None)
            score = torch.autograd.grad(log_prob.sum(), point)[0]
        # NLL = -log p(z) - int_0^T div f ds with f = -v at time 1 - s from the data, so dz/dT = f(z)
        rate = (score * v).flatten(1).sum(1) + divergence
        each = self.nll_weight * rate
        if self.costs.names:
            costs = self.costs.at(field, t, z, context, v, products)
            each = each + (costs * costs.new_tensor(self.costs.weights)).sum(-1)
        return ((each if weight is None else weight * each).mean() + self.alpha).to(self.gradient.dtype)

    @torch.no_grad()
    def use_average(self, model: Any) -> None:
        """Set the flow's span to the average of the T of some last 10 steps, for evaluation; nothing before the first step."""
        span: Tensor = model.bijector.time_span
        span.copy_(torch.where(torch.isnan(self.average), span, self.average.to(span)))

    def on_step_end(self, model: nn.Module, step: int) -> None:
        """Move T, within its bounds."""
        own: Any = model
        span: Tensor = own.bijector.time_span
        self.steps_seen += 1
        if self.mode == "joint":
            span.add_(self.shift.detach()).clamp_(*self.bounds)
            with torch.no_grad():
                self.shift.zero_()
        elif self.mode == "coordinate" and int(self.steps_seen) > self.warmup and int(self.steps_seen) % self.every == 0:
            span.sub_((self.lr * self.gradient).clamp(-self.clip, self.clip).to(span)).clamp_(*self.bounds)
        self.average.copy_(torch.where(torch.isnan(self.average), span, torch.lerp(self.average, span.to(self.average), 0.1)))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, TemporalOptimization, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 1.5 + 0.5 * torch.randn(32, 2, generator=generator)
        flow = {"name": "continuous_flow", "features": 2, "hidden": (8, 8), "solver": "rk4", "steps": 3, "per_sample": False, "standardize": False}
        yield "coordinate", cls(warmup=2), build(flow, Flow), Batch(x)
        yield "costs", cls(warmup=0, kinetic=0.01, jacobian=0.01), build(flow, Flow), Batch(x)
