"""Temperatures and step sizes of an annealed path, from a pilot population that is thrown away afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, NonFiniteError
from flowkit.numerics.annealing import Bridge, LogPath, check_weights, move, schedule
from flowkit.numerics.importance import ess, resample
from flowkit.numerics.mcmc import LogDensity
from flowkit.numerics.transitions import Kernel, Transition

GAIN = 0.35  # of the logit of the acceptance in the log of the step size: about a Newton step at each rule's target, for normal proposals in many dimensions
CLOSE = 0.08  # to the acceptance wanted


@dataclass(frozen=True)
class Plan:
    """The densities that annealing goes through: 0 = b_0 < ... < b_{K+1} = 1, and a transition for each of the K in between."""

    betas: list[float]
    kernels: list[Kernel]


@torch.no_grad()
def plan(
    log_start: LogDensity,
    log_end: LogDensity,
    x: Tensor,
    *,
    kernel: Kernel,
    betas: int | Sequence[float] | Tensor | None = None,
    share: float = 0.95,
    rounds: int = 10,
    steps: int = 1,
    most: int = 1000,
    generator: torch.Generator | None = None,
    log_path: LogPath | None = None,
    tick: Callable[[], None] | None = None,
) -> Plan:
    """Carry a pilot population from start to end, and note the temperatures and step sizes that served it.

    Where ``betas`` is None the next temperature is the one at which the effective share of the population falls to ``share``; the population is
    resampled at each. There the step size is scaled until about ``kernel.target_acceptance`` of the steps are accepted, at most ``rounds`` times;
    transitions without such a target stay as they are. Because other events use the plan, their weights stay exact.

    Args:
        log_start, log_end, log_path: as for ``annealed``. x: (N, *event), draws from start; a few hundred.
        kernel: the first guess. steps: transitions at each density besides those that tune. most: temperatures in between.

    Raises:
        NonFiniteError: log-weights are NaN, or all zero. ConfigError: more than ``most`` temperatures are needed.

    Reference: Jasra et al. (2011), Inference for Levy-driven stochastic volatility models via adaptive sequential Monte Carlo, Scand. J. Stat. 38
        (temperatures by effective sample size); Buchholz, Chopin and Jacob (2021), Adaptive tuning of HMC within SMC, arXiv:1808.07730.
    """
    given = None if betas is None else schedule(betas)
    bridge = Bridge(log_start, log_end, log_path)
    found, kernels = [0.0], list[Kernel]()
    while True:
        b = found[-1]
        change = bridge.change(x)
        check_weights(change(b, 1.0), "annealing")
        found.append(next_beta(change, b, share) if given is None else given[len(found)])
        if found[-1] == 1:
            return Plan(found, kernels)
        if len(kernels) == most:
            raise ConfigError(f"annealing: {most} temperatures were not enough to reach 1, only {b:.4g}. Start nearer to the end, or lower the share kept.")
        x = x[resample(change(b, found[-1]), len(x), "systematic", generator)]
        kernel = tuned(bridge, found[-1], x, kernel, rounds, generator)
        x = move(bridge, found[-1], x, kernel, steps, generator)[0]
        kernels.append(kernel)
        if tick is not None:
            tick()


def next_beta(change: Callable[[float, float], Tensor], b: float, share: float, log_weights: Tensor | None = None) -> float:
    """The largest c <= 1 at which log_weights + change(b, c) keep an effective size of at least ``share`` of what they have now, by bisection.

    Events of weight zero at any c > b count as lost already.
    """
    now = torch.zeros_like(change(b, b + 1e-9)) if log_weights is None else log_weights
    alive = torch.isfinite(change(b, 1.0))
    if not bool(alive.any()):
        raise NonFiniteError("annealing: no event has a positive density at the end. Start from a distribution that covers it.")
    now = now[alive]
    want = share * float(ess(now))

    def keeps(c: float) -> bool:
        return float(ess(now + change(b, c)[alive])) >= want

    if keeps(1.0):
        return 1.0
    low, high = b, 1.0
    while high - low > 1e-3 * (high - b) and high - low > 1e-12:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low if low > b else high


def tuned(bridge: Bridge, b: float, x: Tensor, kernel: Kernel, rounds: int, generator: torch.Generator | None) -> Kernel:
    """The transition with a step size that is accepted about as often as it should be at b from where the events (N, *event) are now."""
    if not isinstance(kernel, Transition) or kernel.target_acceptance is None:
        return kernel
    for _ in range(rounds):
        accepted = move(bridge, b, x, kernel, 1, generator)[2]  # always from x: events that moved already would forgive longer steps
        kernel, gap = adjusted(kernel, float(accepted))
        if abs(gap) < CLOSE:
            break
    return kernel


def adjusted(kernel: Transition, accepted: float) -> tuple[Transition, float]:
    """The transition with its step size scaled towards its target acceptance, and how far above that target it was."""
    assert kernel.target_acceptance is not None
    share = min(max(accepted, 0.01), 0.99)
    change = math.log(share / (1 - share)) - math.log(kernel.target_acceptance / (1 - kernel.target_acceptance))
    gap = accepted - kernel.target_acceptance
    return kernel.scaled(math.exp(GAIN * change)) if abs(gap) >= CLOSE / 2 else kernel, gap


def checked_share(share: float, who: str, name: str) -> float:
    """A share of the population, in (0, 1)."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise ConfigError(f"{who}: expected {name} to be a share of the population, between 0 and 1; got {share!r}.")
    return float(share)
