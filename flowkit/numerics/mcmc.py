"""Markov transitions of a batch of events towards a density known up to a constant.

All are differentiable in the events and in the density's parameters, the acceptances apart, where gradients are recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.shapes import mask_event, sum_event

LogDensity = Callable[[Tensor], Tensor]


def gradient(log_density: LogDensity, x: Tensor) -> Tensor:
    """d log_density / dx (*B, *event), zero where it is not finite; part of the graph where gradients are recorded."""
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x if recording and x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_density(point).sum(), point, create_graph=recording)
    return torch.where(torch.isfinite(slope), slope, torch.zeros_like(slope))


def metropolis(log_density: LogDensity, x: Tensor, rank: int, scale: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One random-walk Metropolis step with a normal proposal of that scale.

    Args:
        log_density: (*B, *event) -> (*B); x: (*B, *event) with ``rank`` event axes.

    Returns:
        the next events, and which proposals were accepted (*B).

    Reference: Metropolis et al. (1953), J. Chem. Phys. 21.
    """
    proposal = x + scale * _noise(x, generator)
    return _accept(x, proposal, log_density(proposal) - log_density(x), rank, generator)


def hamiltonian(
    log_density: LogDensity, x: Tensor, rank: int, step_size: float, leapfrog_steps: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """One Hamiltonian Monte Carlo step: fresh normal momenta, a leapfrog path, accepted or not.

    Returns:
        the next events, and which paths were accepted (*B).

    Reference: Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 3.
    """
    start = momentum = _noise(x, generator)
    place = x
    momentum = momentum + 0.5 * step_size * gradient(log_density, place)
    for step in range(leapfrog_steps):
        place = place + step_size * momentum
        momentum = momentum + (0.5 if step == leapfrog_steps - 1 else 1.0) * step_size * gradient(log_density, place)
    kinetic = 0.5 * sum_event(start.square() - momentum.square(), rank)
    return _accept(x, place, log_density(place) - log_density(x) + kinetic, rank, generator)


def langevin(log_density: LogDensity, x: Tensor, rank: int, step_size: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One unadjusted Langevin step y = x + h s(x) + sqrt(2 h) noise, s the gradient of log_density.

    Returns:
        y and log k(x|y) - log k(y|x) (*B), k the density of the step: what not accepting or rejecting leaves to be weighed.

    Reference: Wu, Koehler and Noe (2020), Stochastic Normalizing Flows, arXiv:2002.06707, section 4.
    """
    spread = math.sqrt(2 * step_size)
    noise = _noise(x, generator)
    y = x + step_size * gradient(log_density, x) + spread * noise
    back = (x - y - step_size * gradient(log_density, y)) / spread
    return y, 0.5 * sum_event(noise.square() - back.square(), rank)


def _accept(x: Tensor, proposal: Tensor, log_ratio: Tensor, rank: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Metropolis' rule; a proposal whose ratio is NaN is refused."""
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=x.dtype, device=x.device)
    accepted = torch.log(uniform) < log_ratio
    return torch.where(mask_event(accepted, rank), proposal, x), accepted


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
