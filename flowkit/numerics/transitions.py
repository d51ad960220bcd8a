"""Markov transitions as values: what moves events inside annealing, sequential Monte Carlo and Markov chains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError, UnknownNameError, nearest
from flowkit.core.shapes import positive, positive_number
from flowkit.numerics.mcmc import LogDensity, hamiltonian, langevin_step, metropolis
from flowkit.numerics.schedules import described


class Kernel(Protocol):
    """A transition: ``kernel(log_density, x, generator)`` gives the next events (*B, *event) and which moved (*B) bool; exp(log_density) stays invariant."""

    def __call__(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A transition with a step size.

    Args:
        step_size: > 0; a tensor that broadcasts against events gives every coordinate its own.

    Attributes:
        target_acceptance: share of accepted steps at which it is about most efficient in many dimensions; None where all are accepted.
        needs_gradient: whether it differentiates the log-density.
    """

    step_size: float | Tensor = 0.1
    target_acceptance: ClassVar[float | None] = None
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.step_size, Tensor):
            if not bool(((self.step_size > 0) & torch.isfinite(self.step_size)).all()):
                raise ConfigError(f"{type(self).__name__}: expected finite step sizes > 0.")
        else:
            positive_number(self.step_size, type(self).__name__, "step_size")

    def step(self, x: Tensor) -> float | Tensor:
        """The step size in the dtype of events and on their device."""
        if not isinstance(self.step_size, Tensor):
            return self.step_size
        size = tuple(self.step_size.shape)
        if len(size) > x.dim() or any(one not in (1, all_) for one, all_ in zip(reversed(size), reversed(x.shape), strict=False)):
            raise ShapeError(f"{type(self).__name__}: expected step sizes that broadcast against events of shape {tuple(x.shape)}; got {size}.")
        return self.step_size.to(x)

    def scaled(self, factor: float) -> Self:
        """The same transition with ``factor`` times the step size."""
        return dataclasses.replace(self, step_size=self.step_size * factor)

    def __call__(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RandomWalk(Transition):
    """Random-walk Metropolis: x + step_size * noise, accepted or not. Needs no gradient; two evaluations.

    Reference: Metropolis et al. (1953), J. Chem. Phys. 21; Roberts, Gelman and Gilks (1997), Ann. Appl. Probab. 7 (acceptance 0.234).
    """

    step_size: float | Tensor = 0.5
    target_acceptance: ClassVar[float | None] = 0.234
    needs_gradient: ClassVar[bool] = False

    def __call__(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]:
        return metropolis(log_density, x, None, self.step(x), generator)


@dataclass(frozen=True, kw_only=True)
class HamiltonianSteps(Transition):
    """Hamiltonian Monte Carlo: ``leapfrog_steps`` of ``step_size`` with fresh momenta, accepted or not. leapfrog_steps + 1 gradients.

    Every event's step size is drawn between (1 - jitter) step_size and step_size: with one for all, events where it is too long never move.

    Reference: Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901; Beskos et al. (2013), arXiv:1001.4460 (acceptance 0.65).
    """

    leapfrog_steps: int = 5
    jitter: float = 0.5
    target_acceptance: ClassVar[float | None] = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self.leapfrog_steps, "HamiltonianSteps", "leapfrog_steps")
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float) or not 0 <= self.jitter < 1:
            raise ConfigError(f"HamiltonianSteps: expected jitter in [0, 1); got {self.jitter!r}.")

    def __call__(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]:
        return hamiltonian(log_density, x, None, self.step(x), self.leapfrog_steps, generator, self.jitter)


@dataclass(frozen=True, kw_only=True)
class AdjustedLangevin(Transition):
    """Metropolis-adjusted Langevin (MALA): y = x + h s(x) + sqrt(2 h) noise, s the score, accepted or not. Two gradients.

    Reference: Roberts and Tweedie (1996), Exponential convergence of Langevin distributions, Bernoulli 2; Roberts and Rosenthal (1998) (0.574).
    """

    step_size: float | Tensor = 0.02
    target_acceptance: ClassVar[float | None] = 0.574

    def __call__(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]:
        return hamiltonian(log_density, x, None, (2 * self.step(x)) ** 0.5, 1, generator)


@dataclass(frozen=True, kw_only=True)
class UnadjustedLangevin(Transition):
    """Unadjusted Langevin (ULA): y = x + h s(x) + sqrt(2 h) noise, always accepted. The density is invariant to O(h) only.

    ``weighed`` gives what annealing needs to stay exact at any h: the ratio of the step's densities backward and forward.

    Reference: Roberts and Tweedie (1996), Bernoulli 2; Wu, Koehler and Noe (2020), Stochastic Normalizing Flows, arXiv:2002.06707, section 4.
    """

    step_size: float | Tensor = 0.01

    def __call__(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]:
        y, ratio, _ = langevin_step(log_density, x, None, self.step(x), generator)
        return y, torch.ones_like(ratio, dtype=torch.bool)

    def weighed(self, log_density: LogDensity, x: Tensor, generator: torch.Generator | None = None, /) -> tuple[Tensor, Tensor]:
        """y, and log k(x|y) - log k(y|x) + log_density(y) - log_density(x) (*B), 0 for a step in detailed balance.

        Raises:
            NonFiniteError: a density is 0 at either end, which leaves the ratio open; steps that are accepted or not never get there.
        """
        y, ratio, change = langevin_step(log_density, x, None, self.step(x), generator)
        walls = int(torch.isinf(change).sum())
        if walls:
            raise NonFiniteError(
                f"UnadjustedLangevin: {walls} of {change.numel()} steps begin or end where the density is 0, so they cannot be weighed. "
                "Use 'mala' or 'hmc', a smaller step_size, or densities that are positive everywhere."
            )
        return y, ratio + change


_NAMES: dict[str, type[Transition]] = {
    "hmc": HamiltonianSteps,
    "mala": AdjustedLangevin,
    "ula": UnadjustedLangevin,
    "random_walk": RandomWalk,
}


def transition(kernel: str | Mapping[str, Any] | Kernel, who: str) -> Kernel:
    """The transition that "hmc", "mala", "ula", "random_walk", or ``{name: ..., step_size: ..., leapfrog_steps: ...}``, describes; a callable as it is.

    Raises:
        UnknownNameError, ConfigError: the name or an option is not known.
    """
    if isinstance(kernel, type):
        raise ConfigError(f"{who}: expected a kernel; got the class {kernel.__name__}. Build one: {kernel.__name__}(...).")
    if callable(kernel):
        return kernel
    name, options = described(kernel, "kernel", who)
    if name not in _NAMES:
        raise UnknownNameError(f"{who}: no kernel named {name!r}. {nearest(name, _NAMES)}")
    fields = [field.name for field in dataclasses.fields(_NAMES[name])]
    unknown = set(options) - set(fields)
    if unknown:
        raise ConfigError(f"{who}: kernel '{name}' has no option {min(unknown)!r}. It takes: {', '.join(fields)}.")
    return _NAMES[name](**options)
