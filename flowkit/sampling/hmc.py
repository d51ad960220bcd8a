"""Hamiltonian Monte Carlo."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.target import Target
from flowkit.numerics.transitions import HamiltonianSteps
from flowkit.sampling.chains import Chains, run_chains


def hmc(
    target: Target | Distribution,
    start: Tensor,
    steps: int = 1000,
    *,
    warmup: int = 500,
    thin: int = 1,
    step_size: float | Tensor = 0.1,
    leapfrog_steps: int = 10,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Chains:
    """Hamiltonian Monte Carlo chains: fresh normal momenta, a leapfrog path of random step size, accepted or not.

    During the warm-up, which is thrown away, the step size common to all chains moves to an acceptance of 0.65; then it is fixed, so the target is
    invariant under what is kept.

    Args:
        target: log_density with a gradient.
        start: (C, *event), where each chain starts; several far apart make ``r_hat`` mean something.
        steps: kept of each chain, every ``thin``-th; warmup: steps before, 0 to keep ``step_size``.
        step_size: the first guess; a tensor (*event) scales coordinates among each other. leapfrog_steps: of a path.

    Returns:
        ``.samples (T, C, *event) .flat .acceptance .r_hat .effective_samples .autocorrelation_time .mean(f) .means(f) .kernel``.

    Raises:
        ConfigError: the target has no gradient. NonFiniteError: a starting point has no density.

    Reference: Neal (2011), MCMC using Hamiltonian dynamics, arXiv:1206.1901.

    Example:
        >>> import torch, flowkit as fk
        >>> generator = torch.Generator().manual_seed(0)
        >>> chains = fk.sampling.hmc(fk.targets.ManyWell(2), torch.randn(64, 2, generator=generator), 300, generator=generator, progress=False)
        >>> right = chains.mean(lambda x: (x[:, 0] > 0).double())
        >>> abs(right - 0.844) < 4 * right.standard_error
        True
    """
    kernel = HamiltonianSteps(step_size=step_size, leapfrog_steps=leapfrog_steps)
    return run_chains(target, start, steps, kernel, "hmc", warmup=warmup, thin=thin, progress=progress, generator=generator)
