"""Continuous flows that sample by a stochastic differential equation too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.continuous import GuidedField, MLPField
from flowkit.core.errors import ConfigError
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, positive, positive_sizes
from flowkit.core.vector_field import VectorField
from flowkit.distributions import StandardNormal
from flowkit.flows._conditioning import conditioning
from flowkit.flows._langevin_path import NoiseLevel, StochasticPath
from flowkit.flows.continuous_flow import ContinuousFlow
from flowkit.objectives._interpolant import Gamma, Interpolant


@FLOWS.register("interpolant_flow")
class InterpolantFlow(ContinuousFlow):
    """A continuous flow with velocity b and score s of the marginals p_t, for sampling by the ODE or by SDEs of the same marginals.

        ODE:  dX = b dt                                    (``sample``, ``log_prob`` and every other call of a flow)
        SDE:  dX = (b + eps s) dt + sqrt(2 eps) dW         (``sample_sde``)
              dX = (b - eps s) dt + sqrt(2 eps) dW, back   (``to_latent_sde``), any eps(t) >= 0

    ``StochasticInterpolant`` of the same gamma and scale trains both fields. The score is -eta / gamma with the denoiser eta, or is predicted
    itself; one-sided it follows from b, s = -(x - t b) / (1 - t), without a second field. Where b and s are not exact, noise forgets
    errors made earlier on the way, at the cost of more evaluations; ``log_prob`` is the ODE's.

    Args:
        features, context_features, hidden: as for ``ContinuousFlow``; both fields have these widths.
        gamma, scale: the interpolant, see ``StochasticInterpolant``.
        predicts: what the second field says, "denoiser" or "score".
        field: b in place of the default ``MLPField``. noise_field: the second field in place of the default; None one-sided.
        activation: of the default fields.
        options: the others of ``ContinuousFlow``.

    Reference: Albergo, Boffi and Vanden-Eijnden (2023), arXiv:2303.08797, theorem 2.8 and corollary 2.10.

    Example:
        >>> import flowkit as fk
        >>> flow = fk.flows.InterpolantFlow(features=2, hidden=(16, 16))
        >>> flow.sample_sde(5, noise=1.0, steps=20).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        features: int | None = None,
        context_features: int = 0,
        hidden: Sequence[int] = (64, 64),
        *,
        gamma: Gamma = "brownian",
        scale: float = 1.0,
        predicts: Literal["denoiser", "score"] = "denoiser",
        field: VectorField | None = None,
        noise_field: VectorField | None = None,
        activation: str = "silu",
        **options: Any,
    ) -> None:
        interpolant = Interpolant.checked(gamma, scale, "InterpolantFlow")
        if predicts not in ("denoiser", "score"):
            raise ConfigError(f"InterpolantFlow: expected predicts to be 'denoiser' or 'score'; got {predicts!r}.")
        if interpolant.one_sided and noise_field is not None:
            raise ConfigError("InterpolantFlow: one_sided has the score from its velocity; leave noise_field out.")
        if features is not None and noise_field is None and not interpolant.one_sided:
            seen = conditioning("InterpolantFlow", context_features, options.get("classes", 0), options.get("context_shape"), options.get("embed"))
            features, hidden = positive(features, "InterpolantFlow", "features"), positive_sizes(hidden, "InterpolantFlow", "hidden")
            noise_field = MLPField(features, hidden, activation=activation, context_features=seen.features)
        if noise_field is None and not interpolant.one_sided:
            raise ConfigError("InterpolantFlow: expected features=, or noise_field= beside field=; got neither.")
        super().__init__(features, context_features, hidden, field=field, activation=activation, **options)
        if noise_field is not None and tuple(noise_field.event_shape) != tuple(self.base.event_shape):
            raise ConfigError(f"InterpolantFlow: noise_field is on events of shape {noise_field.event_shape}, the base on {self.base.event_shape}.")
        if interpolant.one_sided and not isinstance(self.base, StandardNormal):
            raise ConfigError(f"InterpolantFlow: one_sided needs a standard normal base; got {type(self.base).__name__}. Use gamma='brownian' for any base.")
        self.interpolant, self.noise_field = interpolant, noise_field
        self.gamma, self.scale, self.predicts = interpolant.gamma, interpolant.scale, predicts

    @property
    def known_failures(self) -> dict[str, str]:
        """What the property suite may not expect."""
        return {} if self.noise_field is None else {"parameter_gradients": "the score acts in the SDE only, log_prob is the ODE's"}

    def denoiser(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """eta(t, x) = E[z | x_t = x] in the space of the fields, t (): (*B, *event); ``context`` embedded."""
        if self.noise_field is None:
            return x - t * self.field.velocity(t, x, context)
        found = self.noise_field.velocity(t, x, context)
        return found if self.predicts == "denoiser" else -self.interpolant.noise(t) * found

    def score_at(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """s(t, x) = grad log p_t in the space of the fields, for t () strictly between 0 and 1: (*B, *event); ``context`` embedded."""
        if self.noise_field is not None and self.predicts == "score":
            return self.noise_field.velocity(t, x, context)
        return -self.denoiser(t, x, context) / self.interpolant.noise(t)

    @torch.no_grad()
    def sample_sde(
        self,
        shape: int | tuple[int, ...] = (),
        context: Context = None,
        generator: torch.Generator | None = None,
        *,
        noise: float | Callable[[Tensor], Tensor] = 1.0,
        steps: int = 100,
    ) -> Tensor:
        """Draw events by the forward SDE: (*shape, *Bc, *event).

        Args:
            noise: a number e >= 0 for eps(t) = e gamma(t)^2, which is bounded in its stiffness by e and vanishes with gamma; or a function
                eps(t) of a time (), 0 within 0.001 of the ends. 0 is the ODE.
            steps: of stochastic Heun's method, of weak order 2 for this additive noise; two evaluations of both fields each.
        """
        z, seen = self._draw_latent(shape, context, generator, 1.0)
        x = self._path(noise, seen, generator, "sample_sde").follow(z, 0.0, 1.0, positive(steps, f"{self.who}.sample_sde", "steps"))
        return self._placed(x)

    @torch.no_grad()
    def to_latent_sde(
        self,
        x: Tensor,
        context: Context = None,
        generator: torch.Generator | None = None,
        *,
        noise: float | Callable[[Tensor], Tensor] = 1.0,
        steps: int = 100,
    ) -> Tensor:
        """Carry data (*B, *event) to the base by the backward SDE, a random latent for each: (*B, *event). Options as for ``sample_sde``."""
        seen = self.embed_context(context)
        path = self._path(noise, seen, generator, "to_latent_sde")
        return path.follow(self.endpoint(x), 1.0, 0.0, positive(steps, f"{self.who}.to_latent_sde", "steps"))

    def _path(self, noise: Any, context: Context, generator: torch.Generator | None, call: str) -> StochasticPath:
        level = NoiseLevel(self.interpolant, noise, f"{self.who}.{call}")
        return StochasticPath(self.field, self.denoiser, level, context, generator)

    def _changed(self, field: VectorField, options: dict[str, Any]) -> ContinuousFlow:
        """As the parent's; under guidance the second field is guided alike, so that the SDE has the marginals of the guided ODE's fields."""
        changed = super()._changed(field, options)
        if isinstance(field, GuidedField) and field is not self.field and self.noise_field is not None:
            noise = copy.copy(field)
            noise._modules = {**field._modules, "field": self.noise_field}
            changed.noise_field = noise
        return changed

    @classmethod
    def examples(cls) -> Iterator[tuple[str, InterpolantFlow]]:
        fixed: dict[str, Any] = {"solver": "dopri8", "steps": 8, "per_sample": False}
        yield "one_sided", cls(2, hidden=(8, 8), gamma="one_sided", **fixed)
        yield "conditional_brownian", cls(2, 3, hidden=(8, 8), activation="tanh", **fixed)
