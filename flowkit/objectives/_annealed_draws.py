"""Weighted draws from p^alpha q^(1 - alpha), by annealed importance sampling from a flow q."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.core.evaluating import evaluating
from flowkit.core.shapes import sum_event
from flowkit.numerics.annealing import annealed
from flowkit.numerics.importance import ess
from flowkit.numerics.transitions import Kernel
from flowkit.objectives._energies import evaluate


class Draws(NamedTuple):
    """What one pass gives.

    Args:
        samples: (N, *event). log_weights: of samples of p^alpha q^(1 - alpha), not normalised, (N,); minus infinity for a chain that was lost.
        log_probs: log q of the samples (N,). acceptance: share of accepted moves at each density in between (K,).
        flow_ess: effective share of the flow's own draws as a sample of p. ess: of the log weights. log_z: estimate of the log of the integral of p.
        lost: share of chains of weight zero.
    """

    samples: Tensor
    log_weights: Tensor
    log_probs: Tensor
    acceptance: Tensor
    flow_ess: Tensor
    ess: Tensor
    log_z: Tensor
    lost: Tensor


class AlphaPath:
    """The densities between a flow q and p^alpha q^(1 - alpha), the geometric path.

        log pi_b = ((1 - b) + b (1 - alpha)) log q + b alpha log p = log q + b alpha (log p - log q),   b in [0, 1]

    Where p is zero, infinite or NaN, or q not finite, log pi_1 is minus infinity: no chain moves there, and one that starts there has weight zero.
    The flow and the target are evaluated once for both ends at the same tensor; a target may have no gradient but a ``score`` of its own.

    Args:
        flow: q. target: p. alpha: > 0. who: in messages.
    """

    def __init__(self, flow: Any, target: Any, alpha: float, who: str) -> None:
        self.flow, self.target, self.alpha, self.who = flow, target, alpha, who
        self._newest: tuple[Tensor, Tensor, Tensor] | None = None

    def log_start(self, x: Tensor) -> Tensor:
        """log q (N,); 0 where it is not finite, so that weights there are zero and not NaN."""
        return self.parts(x)[0]

    def log_end(self, x: Tensor) -> Tensor:
        """log pi_1 (N,)."""
        log_q, ratio = self.parts(x)
        return log_q + self.alpha * ratio

    def at(self, b: float, x: Tensor) -> Tensor:
        """log pi_b (N,), b > 0."""
        return (1 - b) * self.log_start(x) + b * self.log_end(x)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log q and log p - log q, each (N,); 0 and minus infinity where one of them is not finite."""
        if self._newest is None or self._newest[0] is not x:
            log_q, log_p = self.flow.log_prob(x), self._log_p(x)
            good = torch.isfinite(log_q) & torch.isfinite(log_p)
            ratio = torch.where(good, log_p - log_q, torch.full_like(log_q, -torch.inf))
            self._newest = x, torch.where(good, log_q, torch.zeros_like(log_q)), ratio
        return self._newest[1:]

    def _log_p(self, x: Tensor) -> Tensor:
        """log p (N,), with its score as gradient where one is recorded."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return evaluate(self.target, x, who=self.who, score=False, zeros=True).log_density
        found = evaluate(self.target, x, who=f"{self.who}, transition='hmc'", score=True, zeros=True)
        assert found.score is not None
        slope = sum_event(x * found.score, len(self.flow.event_shape))
        return found.log_density + (slope - slope.detach())


def annealed_draws(path: AlphaPath, n: int, kernels: Sequence[Kernel], *, steps: int = 1, generator: torch.Generator | None = None) -> Draws:
    """n chains from the flow through as many densities in between as there are kernels, ``steps`` moves at each, without a graph and without dropout.

    With weights w for p^alpha q^(1 - alpha), the mean of w (p / q)^(1 - alpha) over the ends estimates the integral of p without bias.
    """
    with evaluating(path.flow):
        start, _ = path.flow.sample_and_log_prob((n,), generator=generator)
        first = path.parts(start)[1]
        ends = annealed(path.log_start, path.log_end, start, betas=len(kernels), kernel=kernels, generator=generator, steps=steps)
        log_q, ratio = path.parts(ends.samples)
    good = torch.isfinite(ends.log_weights) & torch.isfinite(ratio)
    log_weights = torch.where(good, ends.log_weights, torch.full_like(ends.log_weights, -torch.inf))
    mass = torch.where(good, log_weights + (1 - path.alpha) * ratio, log_weights)
    log_z = torch.logsumexp(mass, 0) - math.log(n)
    return Draws(ends.samples, log_weights, log_q, ends.acceptance, ess(first) / n, ess(log_weights) / n, log_z, 1 - good.float().mean())
