"""Brownian motion from 0 with a controlled drift, as a layer, and what its paths weigh.

1. Steps: x_{n+1} = x_n + h sigma u_n + sqrt(h) sigma e_n from x_0 = 0, with e_n standard normal. With u = 0 this is the reference, whose
   marginals are N(0, n h sigma^2), and whose time reversal is the Brownian bridge, P_B(x_n | x_{n+1}) = N(n x_{n+1} / (n + 1), n h sigma^2 / (n + 1)).
2. P_B is the reference read backward: the reference density of a path up to n is both prod P_ref and p_n(x_n) prod P_B. So
       sum_{l < n} log P_F - log P_B = log p_n(x_n) + G_n,    G_n = sum_{l < n} log P_F - log P_ref.
3. With w_l = (x_{l+1} - x_l) / (sigma sqrt(h)), a term of G is (w^2 - (w - sqrt(h) u)^2) / 2 = sqrt(h) u w - h u^2 / 2: no difference of large
   numbers is left, and nothing but u has to be evaluated again where gradients are wanted.
4. The bridge from x_N to 0 is W_n + (n / N) (x_N - W_N), W the reference: all its places come from one cumulative sum.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from flowkit.core.shapes import sum_event
from flowkit.core.surjection import Surjection
from flowkit.core.tally import HALF_LOG_2PI, standard_log_normal
from flowkit.core.traits import Traits
from flowkit.flows._control import FieldControl, LangevinControl, at, every, score_in_graph
from flowkit.objectives._energies import evaluate

WHO = "DiffusionSampler"
ROWS = 2**16  # places that a control sees in one call where no gradients are recorded: bounds the memory


class ControlledDiffusion(Surjection):
    """N controlled steps from x_0 = 0: z is the noise of the first one; ``inverse`` draws the bridge back to 0.

    Args:
        target: gives the score; control: u; steps: N; sigma: volatility; duration: T = N h; clip: bound of the score's coordinates.
    """

    draws = frozenset({"forward", "inverse"})
    traits = Traits(log_det="bound", stochastic=True, score="none", compiles=False, vmaps=False)

    def __init__(self, target: Any, control: LangevinControl | FieldControl, steps: int, sigma: float, duration: float, clip: float) -> None:
        super().__init__()
        self.target, self.control = target, control
        self.steps, self.sigma, self.duration, self.clip = steps, sigma, duration, clip
        self.in_shape = self.out_shape = tuple(target.event_shape)
        self.features = math.prod(self.in_shape)  # type: ignore[arg-type]
        self.step = duration / steps

    def times(self, like: Tensor) -> Tensor:
        """n h for n = 0 .. N: (N + 1)."""
        return torch.linspace(0.0, self.duration, self.steps + 1, dtype=like.dtype, device=like.device)

    def look(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The target's score at flattened events (*B, D), within +-clip and 0 where it is NaN, and log mu (*B), both None where not needed.

        The score is part of the graph where gradients are recorded and x has one, by the target's second derivatives.
        """
        if not self.control.needs_score:
            return None, None
        events = self.events(x)
        if torch.is_grad_enabled() and x.requires_grad:
            score, log_mu = score_in_graph(self.target, events, WHO), None
        else:
            log_mu, found = evaluate(self.target, events, who=WHO, score=True)
            assert found is not None
            score = found
        return score.reshape(x.shape).nan_to_num(0.0, self.clip, -self.clip).clamp(-self.clip, self.clip), log_mu

    def events(self, x: Tensor) -> Tensor:
        """Flattened events as they are: (*B, D) -> (*B, *event)."""
        return x.reshape(*x.shape[:-1], *self.in_shape)  # type: ignore[arg-type]

    def log_reference(self, x: Tensor, n: int | Tensor) -> Tensor:
        """log p_n(x), n >= 1, the marginal of the reference after n steps: (*B, D) -> (*B)."""
        unit = self.step * self.sigma**2
        variance = n.to(x) * unit if isinstance(n, Tensor) else n * unit  # a number stays one: moved to a GPU it would be waited for
        log_variance = variance.log() if isinstance(variance, Tensor) else math.log(variance)
        return -0.5 * sum_event(x.square(), 1) / variance - self.features * (HALF_LOG_2PI + 0.5 * log_variance)

    def follow(self, z: Tensor, generator: torch.Generator | None, *, weigh: bool = True) -> tuple[Tensor, Tensor]:
        """From first noises (R, D) to x_N (R, D) and G_N (R), in memory that does not grow with N where no gradients are recorded."""
        x, total = torch.zeros_like(z), sum_event(torch.zeros_like(z), 1)
        plan, spread, noise = self.control.plan(self.times(z)[:-1]), math.sqrt(self.step) * self.sigma, z
        for n in range(self.steps):
            if n:
                noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
            u = self.control(at(plan, n), x, self.look(x)[0])
            if weigh:
                total = total + sum_event(u * (math.sqrt(self.step) * noise + 0.5 * self.step * u), 1)
            x = x + (self.step * self.sigma) * u + spread * noise
        return x, total

    def bridge(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Places x_0 .. x_N of a Brownian bridge from 0 to x (R, D): (N + 1, R, D)."""
        noise = torch.randn((self.steps, *x.shape), generator=generator, dtype=x.dtype, device=x.device)
        walk = torch.cat([torch.zeros_like(x).unsqueeze(0), noise.cumsum(0) * (math.sqrt(self.step) * self.sigma)])
        share = torch.linspace(0.0, 1.0, self.steps + 1, dtype=x.dtype, device=x.device)[:, None, None]
        return torch.cat([(walk + share * (x - walk[-1]))[:-1], x.unsqueeze(0)])

    def controls(self, x: Tensor, score: Tensor | None) -> Tensor:
        """u at the places x_0 .. x_{N-1} of paths: x (N, R, D) and the score there, which is computed where it is None -> (N, R, D)."""
        plan = every(self.control.plan(self.times(x)[:-1]))
        size = len(x) if torch.is_grad_enabled() else max(1, ROWS // max(1, x.shape[1]))
        parts = []
        for start in range(0, len(x), size):
            cut = slice(start, start + size)
            parts.append(self.control(tuple(part[cut] for part in plan), x[cut], self.look(x[cut])[0] if score is None else score[cut]))
        return torch.cat(parts)

    def girsanov(self, x: Tensor, u: Tensor) -> Tensor:
        """Terms of G along paths x (N + 1, R, D) with controls u (N, R, D): (N, R)."""
        noise = x.diff(dim=0) / self.sigma  # sqrt(h) w
        return sum_event(u * (noise - (0.5 * self.step) * u), 1)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rows = z.reshape(-1, self.features)
        x, total = self.follow(rows, generator)
        log_det = standard_log_normal(rows, 1) - total - self.log_reference(x, self.steps)
        return x.reshape(z.shape), log_det.reshape(z.shape[: z.dim() - len(self.in_shape)])

    def move(self, value: Tensor, context: Any = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        if inverse:
            return super().move(value, context, inverse=True, generator=generator)
        return self.follow(value.reshape(-1, self.features), generator, weigh=False)[0].reshape(value.shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rows = x.reshape(-1, self.features)
        path = self.bridge(rows, generator)
        u = self.controls(path[:-1], None)
        z = (path[1] / self.sigma - self.step * u[0]) / math.sqrt(self.step)
        total = self.log_reference(rows, self.steps) + self.girsanov(path, u).sum(0)
        log_det = total - standard_log_normal(z, 1)
        return z.reshape(x.shape), log_det.reshape(x.shape[: x.dim() - len(self.in_shape)])
