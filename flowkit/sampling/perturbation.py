"""Free-energy perturbation, plain and through a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.evaluating import evaluating
from flowkit.core.flow import Flow
from flowkit.core.shapes import positive
from flowkit.core.target import Target
from flowkit.core.transform import Bijector
from flowkit.numerics.importance import ess, log_mean_weight, pareto_shape
from flowkit.sampling.free_energy import FreeEnergy, work_values

Energy = Target | Distribution | Callable[[Tensor], Tensor]


def fep(work: Tensor) -> FreeEnergy:
    """Free-energy perturbation: F_1 - F_0 = -log E_0 exp(-w), w = u_1(x) - u_0(x), x from state 0.

    Consistent, high on average; the error is by the delta method. With the work of any protocol from 0 to 1 it is Jarzynski's equality.

    Args:
        work: (N), in kT; independent values.

    Reference: Zwanzig (1954), J. Chem. Phys. 22; Jarzynski (1997), Nonequilibrium equality for free energy differences, arXiv:cond-mat/9610209.

    Example:
        >>> import torch
        >>> from flowkit.sampling import fep
        >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> result = fep(2 * x.square() - x.square() / 2)  # spring constants 1 and 4: F_1 - F_0 = log(4) / 2
        >>> abs(result.delta_f - 0.6931) < 4 * result.error
        True
    """
    return _perturbed(work_values(work, "fep"))


@torch.no_grad()
def tfep(flow: Bijector | Flow, samples: Tensor, u0: Energy, u1: Energy, *, batch_size: int = 4096, generator: torch.Generator | None = None) -> FreeEnergy:
    """Targeted free-energy perturbation: samples of state 0 are mapped to where state 1 is before they are weighed.

        F_1 - F_0 = -log E_0 exp(-w),   w = u_1(M x) - u_0(x) - log |det dM/dx|

    Exact for any bijector M, with less spread the nearer M carries state 0 to state 1. ``result.work`` and that of the way back, ``~M`` on samples of
    state 1, go into ``bar``.

    Args:
        flow: M, a bijector; of a flow, its map from latent to data, Standardize and support included.
        samples: (N, *event), of state 0.
        u0, u1: reduced energies (*B, *event) -> (*B) in kT, or targets or distributions, whose energy is -log_density.
        batch_size: samples at a time.

    Reference: Jarzynski (2002), Targeted free energy perturbation, arXiv:cond-mat/0109461; Wirnsberger et al. (2020), arXiv:2002.04913.
    """
    maps: list[Any] = list(flow.maps) if isinstance(flow, Flow) else [flow]
    for one in maps:
        if not isinstance(one, Bijector) or one.context_shape is not None:
            raise ConfigError(f"tfep: expected a bijector without context, or a flow of such; got {type(one).__name__}.")
    positive(batch_size, "tfep", "batch_size")
    work = []
    with evaluating(*maps):
        for x in samples.split(batch_size):
            y, log_det = x, torch.zeros(())
            for step in maps:
                y, gained = step(y, generator=generator)
                log_det = log_det.to(gained) + gained
            work.append((_energy(u1, y, "u1") - log_det).double() - _energy(u0, x, "u0").double())
    return _perturbed(work_values(torch.cat(work), "tfep"))


def _perturbed(work: Tensor) -> FreeEnergy:
    log_ratio, error = log_mean_weight(-work)
    return FreeEnergy(-log_ratio, error, float(ess(-work)) / len(work), pareto_shape(-work), work)


def _energy(energy: Energy, x: Tensor, name: str) -> Tensor:
    value: Any = -energy.log_density(x) if isinstance(energy, Target | Distribution) else energy(x)
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"tfep: expected {name} to give one energy a sample, ({len(x)},); got {got}.")
    return value
