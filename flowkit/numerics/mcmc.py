"""Markov transitions of a batch of events towards a density known up to a constant.

All are differentiable in the events and in the density's parameters, the acceptances apart, where gradients are recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import mask_event, sum_event

LogDensity = Callable[[Tensor], Tensor]


def gradient(log_density: LogDensity, x: Tensor) -> Tensor:
    """d log_density / dx (*B, *event), zero where it is not finite; part of the graph where gradients are recorded."""
    return value_and_gradient(log_density, x)[1]


def value_and_gradient(log_density: LogDensity, x: Tensor) -> tuple[Tensor, Tensor]:
    """log_density (*B) and its gradient (*B, *event) from one evaluation; the gradient is zero where it is not finite.

    Both are part of the graph where gradients are recorded.

    Raises:
        ConfigError: the log-density has no gradient in x. ShapeError: it is not one number an event.
    """
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x if recording and x.requires_grad else x.detach().requires_grad_()
        value = log_density(point)
        check_values(value, x)
        slope = torch.autograd.grad(value.sum(), point, create_graph=recording, allow_unused=True)[0] if value.requires_grad else None
    if slope is None:
        raise ConfigError(
            "Gradient-based steps: expected a log-density with a gradient in x; got one that is detached from it. "
            "Compute it by differentiable torch operations on x, or use random-walk steps."
        )
    return value if recording else value.detach(), torch.where(torch.isfinite(slope), slope, torch.zeros_like(slope))


def check_values(value: Tensor, x: Tensor) -> None:
    """Raise ShapeError unless a log-density's values are a tensor of the shape of x without its event axes."""
    if not isinstance(value, Tensor) or value.shape != x.shape[: value.dim()]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"log_density: expected one value an event, (*B) for events (*B, *event) of shape {tuple(x.shape)}; got {got}.")


def metropolis(log_density: LogDensity, x: Tensor, rank: int | None, scale: float | Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One random-walk Metropolis step with a normal proposal of that scale.

    Args:
        log_density: (*B, *event) -> (*B); x: (*B, *event) with ``rank`` event axes, None to read it off the values of log_density.

    Returns:
        the next events, and which proposals were accepted (*B).

    Reference: Metropolis et al. (1953), J. Chem. Phys. 21.
    """
    proposal = x + scale * _noise(x, generator)
    before = log_density(x)
    check_values(before, x)
    return _accept(x, proposal, log_density(proposal) - before, rank, generator)


def hamiltonian(
    log_density: LogDensity,
    x: Tensor,
    rank: int | None,
    step_size: float | Tensor,
    leapfrog_steps: int,
    generator: torch.Generator | None,
    jitter: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """One Hamiltonian Monte Carlo step: fresh normal momenta, a leapfrog path, accepted or not.

    Costs leapfrog_steps + 1 evaluations with gradient. One leapfrog step of size e is the Metropolis-adjusted Langevin step of size e^2 / 2. A
    step size that broadcasts against events is one for every coordinate (a diagonal mass matrix). With ``jitter`` each event's is drawn
    uniformly between 1 - jitter times it and it, so that no place is one where all steps are too long.

    Returns:
        the next events, and which paths were accepted (*B).

    Reference: Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 3.
    """
    start = momentum = _noise(x, generator)
    place = x
    before, slope = value_and_gradient(log_density, place)
    rank = x.dim() - before.dim() if rank is None else rank
    if jitter:
        step_size = step_size * mask_event(1 - jitter * torch.rand(before.shape, generator=generator, dtype=x.dtype, device=x.device), rank)
    momentum = momentum + 0.5 * step_size * slope
    for step in range(leapfrog_steps):
        place = place + step_size * momentum
        value, slope = value_and_gradient(log_density, place)
        momentum = momentum + (0.5 if step == leapfrog_steps - 1 else 1.0) * step_size * slope
    kinetic = 0.5 * sum_event(start.square() - momentum.square(), rank)
    return _accept(x, place, value - before + kinetic, rank, generator)


def langevin(log_density: LogDensity, x: Tensor, rank: int | None, step_size: float | Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """One unadjusted Langevin step y = x + h s(x) + sqrt(2 h) noise, s the gradient of log_density.

    Returns:
        y and log k(x|y) - log k(y|x) (*B), k the density of the step: what not accepting or rejecting leaves to be weighed.

    Reference: Wu, Koehler and Noe (2020), Stochastic Normalizing Flows, arXiv:2002.06707, section 4.
    """
    y, ratio, _ = langevin_step(log_density, x, rank, step_size, generator)
    return y, ratio


def langevin_step(
    log_density: LogDensity, x: Tensor, rank: int | None, step_size: float | Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``langevin``, with log_density(y) - log_density(x) (*B) from the same two evaluations."""
    spread = (2 * step_size) ** 0.5
    noise = _noise(x, generator)
    before, slope = value_and_gradient(log_density, x)
    y = x + step_size * slope + spread * noise
    after, slope = value_and_gradient(log_density, y)
    back = (x - y - step_size * slope) / spread
    ratio = 0.5 * sum_event(noise.square() - back.square(), x.dim() - before.dim() if rank is None else rank)
    return y, ratio, after - before


def _accept(x: Tensor, proposal: Tensor, log_ratio: Tensor, rank: int | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Metropolis' rule; a proposal whose ratio is NaN is refused."""
    rank = x.dim() - log_ratio.dim() if rank is None else rank
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=x.dtype, device=x.device)
    accepted = torch.log(uniform) < log_ratio
    return torch.where(mask_event(accepted, rank), proposal, x), accepted


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
