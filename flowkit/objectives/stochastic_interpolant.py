"""Stochastic interpolants: one training, sampling by an ODE or by any of a family of SDEs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.build import build
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.objective import Batch, Loss, Objective
from flowkit.core.registry import OBJECTIVES, registered_name
from flowkit.core.shapes import flag
from flowkit.objectives._ends import Ends, batch_mean, continuous_flow, ends_of, over_event, uniform_times
from flowkit.objectives._interpolant import Gamma, Interpolant
from flowkit.objectives._label_drop import checked_share, seen_context

MARGIN = 1e-4  # times stay this far from 0 and 1, where d gamma / dt or 1 / gamma may be infinite


@OBJECTIVES.register("stochastic_interpolant")
class StochasticInterpolant(Objective):
    """Learn the velocity b and the denoiser eta (or the score s) of x_t = I(t, x0, x1) + gamma(t) z.

        b(t, x) = E[dI/dt + gamma' z | x_t = x],  eta(t, x) = E[z | x_t = x],  s = grad log p_t = -eta / gamma
        loss = mean over elements of  |b|^2 / 2 - (dI/dt + gamma' z) b  +  |eta|^2 / 2 - z eta    (or |s|^2 / 2 + z s / gamma)

    These are the squared errors less a constant that is infinite where gamma' is, so the loss may be negative. With ``antithetic`` every path is
    used at z and at -z, and the terms in gamma' and 1/gamma cancel to finite ones near both ends; each costs two passes then.

    ``flows.InterpolantFlow`` has both fields, says which interpolant its denoiser is of and whether that predicts eta or s, and samples by ODE and
    by SDE. On any other continuous flow, and one-sided, where b holds the score, b alone is trained. ``log_prob`` is that of the ODE with b.

    Args:
        gamma: "brownian" sqrt(scale t (1 - t)), "sine" sqrt(scale) sin^2(pi t), or "one_sided": x_t = t x1 + (1 - t) x0 with x0 normal.
        scale: > 0.
        antithetic: use z and -z.
        label_drop: share of the rows trained without their context, for classifier-free guidance (``flow.guided(scale)``).

    Raises:
        ConfigError: the model is no continuous flow, is of another interpolant, or one-sided with a base that is not standard normal.

    Reference: Albergo, Boffi and Vanden-Eijnden (2023), Stochastic Interpolants: A Unifying Framework for Flows and Diffusions,
    arXiv:2303.08797, equations 2.13 to 2.16 and section 4.
    """

    requires = frozenset({"data"})

    def __init__(self, *, gamma: Gamma = "brownian", scale: float = 1.0, antithetic: bool = True, label_drop: float = 0.0) -> None:
        super().__init__()
        self.label_drop = checked_share(label_drop, "StochasticInterpolant")
        self.interpolant = Interpolant.checked(gamma, scale, "StochasticInterpolant")
        self.gamma, self.scale, self.antithetic = self.interpolant.gamma, self.interpolant.scale, flag(antithetic, "StochasticInterpolant", "antithetic")

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None, *, phase: str = "main") -> Loss:
        flow = continuous_flow(model, "StochasticInterpolant", build="flows.InterpolantFlow")
        self._check(flow)
        ends = ends_of(flow, batch, generator, "StochasticInterpolant")
        context = seen_context(self, flow, batch.context, ends.x1, generator)
        t = MARGIN + (1 - 2 * MARGIN) * uniform_times(ends.x1, generator)
        z = ends.x0 if self.interpolant.one_sided else torch.randn(ends.x1.shape, generator=generator, dtype=ends.x1.dtype, device=ends.x1.device)
        each = self.velocity_loss(flow.field, t, ends, z, context)
        terms = {"velocity": batch_mean(each, batch).detach()}
        if getattr(flow, "noise_field", None) is not None:
            noise = self.noise_loss(flow.noise_field, t, ends, z, context, predicts=flow.predicts)
            each, terms["noise"] = each + noise, batch_mean(noise, batch).detach()
        return Loss(batch_mean(each, batch), terms)

    def velocity_loss(self, field: Any, t: Tensor, ends: Ends, z: Tensor, context: Any = None) -> Tensor:
        """|b|^2 / 2 - (dI/dt + gamma' z) b, mean over the event: (B)."""
        rate, noise_rate = self.interpolant.mean_rate(*ends), over_event(self.interpolant.noise_rate(t), z)
        return self._over_signs(lambda x, sign: _quadratic(field.velocity(t, x, context), rate + sign * noise_rate * z), t, ends, z)

    def noise_loss(self, field: Any, t: Tensor, ends: Ends, z: Tensor, context: Any = None, *, predicts: str = "denoiser") -> Tensor:
        """|eta|^2 / 2 - z eta, or |s|^2 / 2 + z s / gamma, mean over the event: (B)."""
        wanted = z if predicts == "denoiser" else -z / over_event(self.interpolant.noise(t), z)
        return self._over_signs(lambda x, sign: _quadratic(field.velocity(t, x, context), sign * wanted), t, ends, z)

    def _over_signs(self, term: Any, t: Tensor, ends: Ends, z: Tensor) -> Tensor:
        """The term at I + gamma z, or its mean with that at I - gamma z."""
        middle, spread = self.interpolant.mean(over_event(t, z), *ends), over_event(self.interpolant.noise(t), z) * z
        found: Tensor = term(middle + spread, 1)
        return 0.5 * (found + term(middle - spread, -1)) if self.antithetic else found

    def _check(self, flow: Any) -> None:
        who, own = "StochasticInterpolant", getattr(flow, "interpolant", None)
        if own is not None and own != self.interpolant:
            raise ConfigError(f"{who}: the flow is of gamma={own.gamma!r}, scale={own.scale}; got {self.gamma!r}, {self.scale}. Give both the same.")
        if self.interpolant.one_sided and registered_name(type(flow.base)) != "standard_normal":
            raise ConfigError(f"{who}: one_sided needs a standard normal base; got {type(flow.base).__name__}. Use gamma='brownian' for any base.")

    @classmethod
    def examples(cls) -> Iterator[tuple[str, StochasticInterpolant, nn.Module, Batch]]:
        generator = torch.Generator().manual_seed(0)
        x = 2.0 + 0.5 * torch.randn(64, 2, generator=generator)
        flow = {"name": "interpolant_flow", "features": 2, "hidden": (16, 16)}
        yield "two_sided", cls(), build(flow, Flow), Batch(x)
        sine = flow | {"gamma": "sine", "scale": 0.5, "predicts": "score", "context_features": 1}
        yield "conditional_score", cls(gamma="sine", scale=0.5), build(sine, Flow), Batch(x, x[:, :1] - 2.0)
        yield "one_sided", cls(gamma="one_sided"), build(flow | {"gamma": "one_sided"}, Flow), Batch(x)


def _quadratic(value: Tensor, target: Tensor) -> Tensor:
    """|value|^2 / 2 - target value, mean over the event: (B)."""
    return (0.5 * value.square() - target * value).flatten(1).mean(1)
