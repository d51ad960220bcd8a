"""torchcfm's matchers, by their own names and calls, on flowkit's paths and pairings: training loops written for torchcfm run unchanged.

    from flowkit.interop.torchcfm import ExactOptimalTransportConditionalFlowMatcher
    t, xt, ut = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow(x0, x1)

Differences: exact pairings are a permutation of the batch, each row used once, where torchcfm draws pairs from the plan with replacement;
everything stays on the tensors' device, and indices are tensors; a bridge is not evaluated within 1e-5 of its ends; every matcher is
``guided``. Without pairing, the same seed gives the same numbers. torchcfm itself is not needed.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError, UnknownNameError, nearest
from flowkit.core.shapes import mask_event
from flowkit.numerics.schedules import Coefficients
from flowkit.numerics.sinkhorn import sinkhorn
from flowkit.objectives._pairings import closest, squared_distances
from flowkit.objectives._paths import Path

Method = Literal["exact", "sinkhorn", "unbalanced"]
METHODS = ("exact", "sinkhorn", "unbalanced")


class OTPlanSampler:
    """Pairs of rows drawn from an optimal-transport plan of squared Euclidean cost.

    Args:
        method: "exact", a permutation; "sinkhorn"; "unbalanced".
        reg: of the entropic plans; reg_m: penalty of marginals that differ; normalize_cost: divide the cost by its largest entry.
        num_threads, warn: taken and not used.
        generator: for the pairs.
    """

    def __init__(
        self,
        method: Method,
        reg: float = 0.05,
        reg_m: float = 1.0,
        normalize_cost: bool = False,
        num_threads: int | str = 1,
        warn: bool = True,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        if method not in METHODS:
            raise UnknownNameError(f"OTPlanSampler: no method named {method!r}. {nearest(str(method), METHODS)}")
        self.method, self.reg, self.reg_m, self.normalize_cost, self.generator = method, reg, reg_m, normalize_cost, generator

    def get_map(self, x0: Tensor, x1: Tensor) -> Tensor:
        """The plan (N, M), of mass one unless it is unbalanced."""
        if self.method == "exact":
            rows = self._permutation(x0, x1)
            plan = torch.zeros(len(x0), len(x1), dtype=torch.float64, device=x0.device)
            return plan.index_put_((rows, torch.arange(len(x1), device=x0.device)), plan.new_tensor(1 / len(x0)))
        cost = squared_distances(x0, x1)
        cost = cost / cost.max() if self.normalize_cost else cost
        return sinkhorn(cost, self.reg, marginal_penalty=self.reg_m if self.method == "unbalanced" else math.inf).plan

    def sample_map(self, pi: Tensor, batch_size: int, replace: bool = True) -> tuple[Tensor, Tensor]:
        """Rows i of x0 and j of x1 drawn from a plan: (batch_size) each."""
        drawn = torch.multinomial(pi.flatten(), batch_size, replacement=replace, generator=self.generator)
        return drawn // pi.shape[1], drawn % pi.shape[1]

    def sample_plan(self, x0: Tensor, x1: Tensor, replace: bool = True) -> tuple[Tensor, Tensor]:
        """Paired rows: x0[i], x1[j]."""
        return self.sample_plan_with_labels(x0, x1, replace=replace)[:2]

    def sample_plan_with_labels(self, x0: Tensor, x1: Tensor, y0: Any = None, y1: Any = None, replace: bool = True) -> tuple[Tensor, Tensor, Any, Any]:
        """Paired rows and their labels: x0[i], x1[j], y0[i], y1[j]."""
        if self.method == "exact":
            i = self._permutation(x0, x1)
            return x0[i], x1, None if y0 is None else y0[i], y1
        i, j = self.sample_map(self.get_map(x0, x1), len(x0), replace)
        return x0[i], x1[j], None if y0 is None else y0[i], None if y1 is None else y1[j]

    def sample_trajectory(self, x: Tensor) -> Tensor:
        """Rows of several populations linked by the plans between neighbours: (N, T, *event) -> (N, T, *event)."""
        rows = torch.arange(len(x), device=x.device)
        linked = [x[:, 0]]
        for time in range(x.shape[1] - 1):
            plan = self.get_map(x[:, time], x[:, time + 1])
            rows = torch.multinomial(plan[rows], 1, generator=self.generator).squeeze(1)
            linked.append(x[rows, time + 1])
        return torch.stack(linked, 1)

    def _permutation(self, x0: Tensor, x1: Tensor) -> Tensor:
        if len(x0) != len(x1):
            raise ShapeError(f"OTPlanSampler: an exact pairing needs as many x0 as x1; got {len(x0)} and {len(x1)}. Use method='sinkhorn'.")
        return closest(x0, x1)


class ConditionalFlowMatcher:
    """I-CFM: x_t = (1 - t) x0 + t x1 + sigma eps, u = x1 - x0; the others change path or pairing.

    Args:
        sigma: >= 0.
    """

    def __init__(self, sigma: float = 0.0) -> None:
        self.sigma, self._path = sigma, self._make(sigma)
        self.ot_sampler: OTPlanSampler | None = None

    def _make(self, sigma: float) -> Path:
        return Path.of("linear", _checked(sigma, type(self).__name__), type(self).__name__)

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        """Mean of the path at times t (N): (N, *event)."""
        at = self._at(t, x1)
        return at.alpha * x1 + at.sigma * x0

    def compute_sigma_t(self, t: Tensor | float) -> Any:
        """Standard deviation of the path."""
        return self.sigma

    def sample_xt(self, x0: Tensor, x1: Tensor, t: Tensor | float, epsilon: Tensor) -> Tensor:
        """A place on the path from its noise epsilon (N, *event)."""
        sigma = self.compute_sigma_t(t)
        return self.compute_mu_t(x0, x1, t) + (mask_event(sigma, x0.dim() - 1) if isinstance(sigma, Tensor) and sigma.dim() else sigma) * epsilon

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor | float, xt: Tensor) -> Tensor:
        """The path's velocity at xt: (N, *event)."""
        at = self._at(t, x1)
        return at.alpha_rate * x1 + at.sigma_rate * x0

    def sample_noise_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of the shape of x."""
        return torch.randn_like(x)

    def compute_lambda(self, t: Tensor) -> Any:
        """Weight of the score loss, 2 sigma_t / sigma^2."""
        return 2 * self.compute_sigma_t(t) / (self.sigma**2 + 1e-8)

    def sample_location_and_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor | None = None, return_noise: bool = False) -> tuple[Tensor, ...]:
        """Times t (N), places (N, *event), velocities (N, *event), and the noise if asked for; x0, x1 (N, *event)."""
        if self.ot_sampler is not None:
            x0, x1 = self.ot_sampler.sample_plan(x0, x1)
        return self._located(x0, x1, t, return_noise)

    def guided_sample_location_and_conditional_flow(
        self, x0: Tensor, x1: Tensor, y0: Any = None, y1: Any = None, t: Tensor | None = None, return_noise: bool = False
    ) -> tuple[Any, ...]:
        """The same with the labels of the paired rows before the noise: t, xt, ut, y0, y1(, noise)."""
        if self.ot_sampler is not None:
            x0, x1, y0, y1 = self.ot_sampler.sample_plan_with_labels(x0, x1, y0, y1)
        t, place, velocity, *noise = self._located(x0, x1, t, return_noise)
        return t, place, velocity, y0, y1, *noise

    def _located(self, x0: Tensor, x1: Tensor, t: Tensor | None, return_noise: bool) -> tuple[Tensor, ...]:
        t = torch.rand(len(x0)).type_as(x0) if t is None else t
        if t.dim() != 1 or len(t) != len(x0):
            raise ShapeError(f"{type(self).__name__}: expected t of shape ({len(x0)},); got {tuple(t.shape)}.")
        noise = self.sample_noise_like(x0)
        place, velocity = self._path.at(t, self._start(x0, noise), x1, noise)
        return (t, place, velocity, noise) if return_noise else (t, place, velocity)

    def _start(self, x0: Tensor, noise: Tensor) -> Tensor:
        return x0

    def _at(self, t: Tensor | float, like: Tensor) -> Coefficients:
        return self._path.coefficients(torch.as_tensor(t, dtype=like.dtype, device=like.device), like)


class ExactOptimalTransportConditionalFlowMatcher(ConditionalFlowMatcher):
    """OT-CFM: I-CFM on the best permutation of the batch."""

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__(sigma)
        self.ot_sampler = OTPlanSampler("exact")


class TargetConditionalFlowMatcher(ConditionalFlowMatcher):
    """Flow matching from normal noise: x_t = t x1 + (1 - (1 - sigma) t) eps; x0 is not looked at."""

    def _make(self, sigma: float) -> Path:
        return Path.of("target_ot", _checked(sigma, type(self).__name__), type(self).__name__)

    def _start(self, x0: Tensor, noise: Tensor) -> Tensor:
        return noise

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        return self._at(t, x1).alpha * x1

    def compute_sigma_t(self, t: Tensor | float) -> Any:
        return 1 - (1 - self.sigma) * t

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor | float, xt: Tensor) -> Tensor:
        at = self._at(t, x1)
        return at.alpha_rate * x1 + at.sigma_rate * (xt - at.alpha * x1) / at.sigma


class SchrodingerBridgeConditionalFlowMatcher(ConditionalFlowMatcher):
    """SB-CFM: Brownian bridges of diffusion sigma^2 between paired rows.

    Args:
        sigma: > 0. ot_method: "exact", or "sinkhorn" with reg = 2 sigma^2.
    """

    def __init__(self, sigma: float = 1.0, ot_method: Method = "exact") -> None:
        super().__init__(sigma)
        self.ot_method, self.ot_sampler = ot_method, OTPlanSampler(ot_method, reg=2 * self.sigma**2)

    def _make(self, sigma: float) -> Path:
        return Path.of("bridge", _checked(sigma, type(self).__name__), type(self).__name__)

    def compute_mu_t(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        return torch.lerp(x0, x1, self._time(t, x1))

    def compute_sigma_t(self, t: Tensor | float) -> Any:
        return self.sigma * (t * (1 - t)) ** 0.5

    def compute_conditional_flow(self, x0: Tensor, x1: Tensor, t: Tensor | float, xt: Tensor) -> Tensor:
        time = self._path.times(self._time(t, x1))
        return (0.5 - time) / (time * (1 - time)) * (xt - self.compute_mu_t(x0, x1, t)) + x1 - x0

    def _time(self, t: Tensor | float, like: Tensor) -> Tensor:
        time = torch.as_tensor(t, dtype=like.dtype, device=like.device)
        return mask_event(time, like.dim() - time.dim())


class VariancePreservingConditionalFlowMatcher(ConditionalFlowMatcher):
    """Trigonometric interpolants: x_t = cos(pi t / 2) x0 + sin(pi t / 2) x1 + sigma eps."""

    def _make(self, sigma: float) -> Path:
        return Path.of("trig", _checked(sigma, type(self).__name__), type(self).__name__)


def _checked(sigma: float, who: str) -> float:
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 <= sigma < math.inf:
        raise ConfigError(f"{who}: expected a finite sigma >= 0; got {sigma!r}.")
    return float(sigma)
