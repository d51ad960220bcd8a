"""Langevin chains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import UnknownNameError, nearest
from flowkit.core.target import Target
from flowkit.numerics.transitions import AdjustedLangevin, Transition, UnadjustedLangevin
from flowkit.sampling.chains import Chains, run_chains

_METHODS: dict[str, type[Transition]] = {"mala": AdjustedLangevin, "ula": UnadjustedLangevin}


def langevin(
    target: Target | Distribution,
    start: Tensor,
    steps: int = 1000,
    *,
    method: Literal["mala", "ula"] = "mala",
    warmup: int = 500,
    thin: int = 1,
    step_size: float | Tensor = 0.02,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Chains:
    """Langevin chains: y = x + h s(x) + sqrt(2 h) noise, s the score of the target.

    - "mala" accepts or not by Metropolis' rule: the target is invariant. The step size moves to an acceptance of 0.574 during the warm-up.
    - "ula" accepts all: what it samples is off by O(h), and the step size stays as given. It fails where scores grow faster than linearly.

    Args:
        target: log_density with a gradient.
        start: (C, *event), where each chain starts.
        steps: kept of each chain, every ``thin``-th; warmup: steps before.
        step_size: h; a tensor (*event) gives every coordinate its own.

    Returns:
        as ``hmc``.

    Raises:
        ConfigError: the target has no gradient. NonFiniteError: a starting point has no density, or an unadjusted chain has left all bounds.

    Reference: Roberts and Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations, Bernoulli 2.
    """
    if method not in _METHODS:
        raise UnknownNameError(f"langevin: no method named {method!r}. {nearest(method, _METHODS)}")
    return run_chains(target, start, steps, _METHODS[method](step_size=step_size), "langevin", warmup=warmup, thin=thin, progress=progress, generator=generator)
