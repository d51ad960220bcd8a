"""Diffusion samplers of unnormalised densities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.flow import Flow
from flowkit.core.registry import FLOWS
from flowkit.core.shapes import Context, positive, positive_number, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.core.target import Target
from flowkit.core.vector_field import VectorField
from flowkit.distributions import StandardNormal
from flowkit.flows._control import FieldControl, LangevinControl, at
from flowkit.flows._controlled_diffusion import ControlledDiffusion
from flowkit.flows._trajectory import Trajectory
from flowkit.objectives._energies import evaluate, frozen


@FLOWS.register("diffusion_sampler")
class DiffusionSampler(Flow):
    """Samples of a density known up to a constant, by N learned steps of a diffusion from x_0 = 0.

        x_{n+1} = x_n + h sigma u(t_n, x_n) + sqrt(h) sigma e_n,   u = f(t, x) + g(t) grad log mu(x),   t_n = n h,   T = N h

    f is a ``FourierMLP`` that starts at 0, g a function of the time that starts at 0.01; the score is clipped. Paths are weighed against
    P_B, the Brownian bridge back to 0: ``sample_and_log_prob`` gives sum log P_F - log P_B of the path drawn, so that
    ``target.log_density(x) - log_prob`` is the log of an importance weight whose mean is the target's normalizer.
    ``log_prob(x)`` draws bridges from x back to 0: log mean_k prod P_F / P_B, a lower bound that tightens with ``backward_samples``. Latents are
    the noise of the first step. Train it with ``SubtrajectoryBalance`` or another objective of paths; a density far outside the
    reach of N(0, T sigma^2) is hard to find. Cost: N calls of u for a sample, all N of them at once for ``log_prob``. Where
    gradients are recorded, samples carry them through the whole path, the target's second derivatives included.

    Args:
        target: density on all of R^D with a gradient; events of any rank. Where it has parameters, a frozen copy of it is kept.
        steps: N.
        sigma: volatility, in units of x per square root of time.
        duration: T, the time at the end.
        width: of the networks.
        clip: bound of every coordinate of f and of the score; NaN in a score counts as 0.
        control: u itself, a velocity field, in place of the default; it needs no gradient of the target.
        backward_samples: bridges a ``log_prob``.

    Reference: Zhang et al. (2024), Diffusion generative flow samplers, arXiv:2310.02679; Zhang and Chen (2022), Path integral
    sampler, arXiv:2111.15141.

    Example:
        >>> import torch, flowkit as fk
        >>> _ = torch.manual_seed(0)
        >>> flow = fk.flows.DiffusionSampler(fk.targets.ManyWell(2), steps=20, sigma=1.0)
        >>> x, log_prob = flow.sample_and_log_prob((5,))
        >>> x.shape, log_prob.shape, flow.density
        (torch.Size([5, 2]), torch.Size([5]), 'lower_bound')
    """

    def __init__(
        self,
        target: Target | Distribution,
        steps: int = 100,
        sigma: float = 1.0,
        *,
        duration: float = 1.0,
        width: int = 64,
        clip: float = 1e4,
        control: VectorField | None = None,
        backward_samples: int = 1,
    ) -> None:
        who = type(self).__name__
        kept = frozen(target, who)
        event = _event(kept, who)
        self.steps, self.sigma, self.duration = positive(steps, who, "steps"), positive_number(sigma, who, "sigma"), positive_number(duration, who, "duration")
        self.width, self.clip = positive(width, who, "width"), positive_number(clip, who, "clip")
        self.backward_samples = positive(backward_samples, who, "backward_samples")
        made = LangevinControl(math.prod(event), self.width, self.clip) if control is None else FieldControl(_checked(control, event, who))
        super().__init__(StandardNormal(event), ControlledDiffusion(kept, made, self.steps, self.sigma, self.duration, self.clip))

    @property
    def diffusion(self) -> ControlledDiffusion:
        """The steps and their weights."""
        return self.bijector  # type: ignore[return-value]

    @property
    def target(self) -> Any:
        """The density that is sampled."""
        return self.diffusion.target

    @property
    def control(self) -> VectorField | None:
        """The field given in place of the default control, or None."""
        own = self.diffusion.control
        return own.field if isinstance(own, FieldControl) else None

    def _density(self, x: Tensor, context: Context, generator: torch.Generator | None) -> Tensor:
        if self.backward_samples == 1:
            return super()._density(x, context, generator)
        each = super()._density(x.expand(self.backward_samples, *x.shape), context, generator)
        return each.logsumexp(0) - math.log(self.backward_samples)

    def _draw_latent(self, shape: int | tuple[int, ...], context: Context, generator: torch.Generator | None, temperature: float) -> tuple[Tensor, Context]:
        if temperature != 1:
            raise ConfigError(f"{self.who}: a temperature would act on the noise of the first step alone. Train it on the tempered target instead.")
        return super()._draw_latent(shape, context, generator, temperature)

    # -- paths --------------------------------------------------------------------------------------------------

    def rollout(
        self,
        n: int,
        *,
        sigma: float | None = None,
        along: bool = True,
        graph: bool = False,
        score_graph: bool = True,
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """Draw n paths.

        Args:
            n: number of paths.
            sigma: volatility to draw with, for exploration; None for the sampler's own. Drift and densities are the sampler's.
            along: whether log mu is wanted at every place; else only at the end, where looking at it on the way costs evaluations of their own.
            graph: keep the graph through the paths, whose memory grows with the steps' networks; else there is none.
            score_graph: whether that graph goes through the target's score, by its second derivatives.
            generator: source of randomness.
        """
        n, spread = positive(n, f"{self.who}.rollout", "n"), self.sigma if sigma is None else positive_number(sigma, f"{self.who}.rollout", "sigma")
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            x, u, seen = self._paths(n, spread, score_graph, generator)
            scores, steps = [score for score, _ in seen if score is not None], self.diffusion
            log_pf, log_pb = self._densities(x, u)
            score = steps.events(torch.stack(scores)) if scores else None
            return Trajectory(steps.events(x), steps.times(x), log_pf, log_pb, self._log_mu(x, seen, along), score)

    def _paths(self, n: int, sigma: float, score_graph: bool, generator: torch.Generator | None) -> tuple[Tensor, Tensor, list[Any]]:
        """Places (N + 1, n, D), controls (N, n, D), and what was seen of the target at every step."""
        steps, like = self.diffusion, self.base.like
        noise = torch.randn((self.steps, n, steps.features), generator=generator, dtype=like.dtype, device=like.device) * (math.sqrt(steps.step) * sigma)
        plan = steps.control.plan(steps.times(noise)[:-1])
        x = torch.zeros_like(noise[0])
        places, controls, seen = [x], [], []
        for k in range(self.steps):
            seen.append(steps.look(x if score_graph else x.detach()))
            u = steps.control(at(plan, k), x, seen[-1][0])
            x = x + (steps.step * self.sigma) * u + noise[k]
            places.append(x)
            controls.append(u)
        return torch.stack(places), torch.stack(controls), seen

    def _log_mu(self, x: Tensor, seen: list[Any], along: bool) -> Tensor:
        """log mu along paths x (N + 1, n, D), with a graph at the end alone: (N + 1, n), or (1, n) where the steps did not look and nobody asks."""
        events, known = self.diffusion.events(x), [value for _, value in seen if value is not None]
        end = self.target.log_density(events[-1:]) if torch.is_grad_enabled() else evaluate(self.target, events[-1:], who=self.who, score=False).log_density
        if len(known) == self.steps:
            return torch.cat([torch.stack(known), end])
        return torch.cat([evaluate(self.target, events[:-1], who=self.who, score=False).log_density, end]) if along else end

    def _densities(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """log P_F and log P_B of the steps: (N, n) each."""
        steps, h = self.diffusion, self.diffusion.step
        noise = (x.diff(dim=0) / self.sigma - h * u) / math.sqrt(h)
        log_pf = -0.5 * sum_event(noise.square(), 1) - steps.features * (HALF_LOG_2PI + math.log(math.sqrt(h) * self.sigma))
        return log_pf, log_pf - self._log_ratio(x, u)

    def log_ratio(self, path: Trajectory) -> Tensor:
        """log P_F - log P_B of every step of given paths, differentiable in the control's parameters: (N, n). One call of u, scores are reused."""
        x = path.x.flatten(2)
        score = None if path.score is None else path.score.reshape(x[1:].shape)
        return self._log_ratio(x, self.diffusion.controls(x[:-1], score))

    def _log_ratio(self, x: Tensor, u: Tensor) -> Tensor:
        counts = torch.arange(1, self.steps + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
        reference = self.diffusion.log_reference(x[1:], counts)
        before = torch.cat([torch.zeros_like(reference[:1]), reference[:-1]])
        return self.diffusion.girsanov(x, u) + reference - before

    @classmethod
    def examples(cls) -> Iterator[tuple[str, DiffusionSampler]]:
        yield "double_well", cls(build({"name": "many_well", "dim": 2}, Target), 6, 0.7, width=8, clip=10.0, backward_samples=2)
        field = build({"name": "mlp_field", "features": 2, "hidden": (8,)}, VectorField)
        yield "field", cls(build({"name": "many_well", "dim": 2}, Target), 5, control=field)


def _event(target: Any, who: str) -> tuple[int, ...]:
    """The event shape of a target on all of R^n."""
    event = tuple(target.event_shape)
    if None in event or getattr(target, "context_shape", None) is not None:
        raise ConfigError(f"{who}: expected a target on events of known shape, without context; got {type(target).__name__} on {event}. Fix either first.")
    if not target.domain.trivial:
        raise ConfigError(f"{who}: expected a target on all of R^n; {type(target).__name__} lives on {target.domain}. Map it to R^n first.")
    return event


def _checked(control: Any, event: tuple[int, ...], who: str) -> VectorField:
    if not isinstance(control, VectorField):
        raise ConfigError(f"{who}: expected control to be a velocity field or None; got {type(control).__name__}. Subclass VectorField.")
    if tuple(control.event_shape) != event or control.context_shape is not None:
        raise ConfigError(f"{who}: expected a control on events of shape {event} without context; got one on {tuple(control.event_shape)}.")
    return control
