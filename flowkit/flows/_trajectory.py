"""Paths of a diffusion sampler."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Trajectory:
    """n paths of N steps.

    Args:
        x: places (N + 1, n, *event), x[0] = 0; t: times (N + 1).
        log_pf: log P_F(x_{k+1} | x_k) of the sampler, (N, n), whatever volatility the paths were drawn with.
        log_pb: log P_B(x_k | x_{k+1}), (N, n); the first row is 0, as every path starts at 0.
        log_mu: the target's log_density along the way, (N + 1, n); or at the end alone, (1, n).
        score: the target's clipped score at x[:-1], (N, n, *event); None where the control does not use it.
    """

    x: Tensor
    t: Tensor
    log_pf: Tensor
    log_pb: Tensor
    log_mu: Tensor
    score: Tensor | None

    @property
    def log_weight(self) -> Tensor:
        """log mu(x_N) + sum log P_B - log P_F: (n); the mean of its exponential is the target's normalizer for paths of the sampler's own volatility."""
        return self.log_mu[-1] + (self.log_pb - self.log_pf).sum(0)
