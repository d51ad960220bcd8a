"""Sequential Monte Carlo from a flow to a target."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.evaluating import evaluating
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import Context, flag, positive
from flowkit.core.target import Target
from flowkit.numerics.annealing import Bridge, move
from flowkit.numerics.importance import ess, resample
from flowkit.numerics.tempering import Plan, checked_share
from flowkit.numerics.transitions import Kernel, transition
from flowkit.sampling.annealed import Annealed, Path
from flowkit.sampling.weighted import check_log_weights

FEWEST_ROOTS = 30  # ancestors that an error from the genealogy needs


@dataclass(frozen=True, repr=False, eq=False)
class Particles(Annealed):
    """A population at the end of sequential Monte Carlo. ``log_weights`` hold the log Z of the blocks before the last resampling.

    Attributes:
        ancestors: (N) int64, the draw of the start that each particle comes from. resampled: the b at which the population was.
        ess_path: (K + 1), effective share of the population before resampling, at b_1 ... b_{K+1}.
    """

    resampled: list[float] = field(default_factory=list)
    ess_path: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def roots(self) -> int:
        """How many draws of the start have descendants left; few mean errors that cannot be trusted."""
        assert self.ancestors is not None
        return len(self.ancestors.unique())

    @functools.cached_property
    def log_z_error(self) -> float:
        """Standard error of ``log_z`` from the genealogy of this one run: sqrt(1 - (N / (N - 1))^(r + 1) (1 - sum over roots of their weight^2)).

        r resamplings, which are multinomial because no such error is known for other kinds. Far too small once few ``roots`` are left, of which ``smc`` warns.
        """
        n, weights = len(self.log_weights), self.weights
        assert self.ancestors is not None
        if n < 2:
            return math.nan
        shares = torch.zeros_like(weights).index_add(0, self.ancestors, weights)
        growth = (len(self.resampled) + 1) * math.log1p(1 / (n - 1))
        return math.sqrt(max(1 - math.exp(growth) * (1 - float(shares.square().sum())), 0.0))


def smc(
    start: Distribution,
    target: Target | Distribution,
    n: int,
    *,
    betas: int | Sequence[float] | Tensor | None = None,
    kernel: str | Mapping[str, Any] | Kernel = "hmc",
    steps: int = 2,
    threshold: float = 0.5,
    pilot: int = 512,
    share: float = 0.95,
    context: Context = None,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Particles:
    """Annealed importance sampling of a population that is resampled (multinomially) whenever its effective size is too small.

        log Z = sum over blocks between resamplings of log mean w;   E Z_hat = Z

    exactly, because temperatures and step sizes come from a pilot population that is thrown away, and the last increment ends at b = 1.

    Args:
        start: q, a distribution or a flow whose density is exact. target: p.
        n: particles, all moved at once.
        betas: None to choose them so that each keeps ``share`` of the effective size; or a number of densities in between, or a list from 0 to 1.
        kernel, steps, pilot, context: as for ``annealed``.
        threshold: share of the population, in (0, 1), below which it is resampled.

    Returns:
        what ``annealed`` returns, and ``.ancestors .roots .resampled .ess_path``; errors are from the genealogy of the particles.

    Raises:
        ConfigError: as for ``annealed``. NonFiniteError: log-weights that are NaN, or all zero.

    Reference: Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers, J. R. Stat. Soc. B 68; errors: Chan and Lai (2013), A general
        theory of particle filters, Ann. Stat. 41; Lee and Whiteley (2018), Variance estimation in the particle filter, arXiv:1509.00394.

    Example:
        >>> import torch, flowkit as fk
        >>> generator = torch.Generator().manual_seed(0)
        >>> wide, target = fk.distributions.DiagonalNormal((8,), scale=2.0), fk.targets.ManyWell(8)
        >>> run = fk.sampling.smc(wide, target, 1024, generator=generator, progress=False)
        >>> abs(run.log_z - target.log_normalizer) < 4 * run.log_z_error, run.betas[-1]
        (True, 1.0)
    """
    path = Path(start, target, context, "smc")
    n, rule, steps = positive(n, "smc", "n"), transition(kernel, "smc"), positive(steps, "smc", "steps")
    threshold = checked_share(threshold, "smc", "threshold")
    flag(progress, "smc", "progress")
    with evaluating(start, target):
        chosen = path.plan(rule, betas, pilot, share, steps, generator)
        result = _run(path, chosen, n, steps, threshold, progress, generator)
    if result.roots < min(FEWEST_ROOTS, n):
        warnings.warn(
            f"smc: only {result.roots} of {n} draws have descendants left, so log Z and its error cannot be trusted. "
            "Take more temperatures (share nearer to 1), more steps at each, or more particles.",
            stacklevel=2,
        )
    return result


def _run(path: Path, chosen: Plan, n: int, steps: int, threshold: float, progress: bool, generator: torch.Generator | None) -> Particles:
    """The population through all temperatures."""
    bridge, x = Bridge(path.log_start, path.log_end), path.draw(n, generator)
    log_weights = check_log_weights(bridge.change(x)(*chosen.betas[:2]), "smc")
    ancestors, acceptance, resampled, sizes = torch.arange(n, device=x.device), list[Tensor](), list[float](), [ess(log_weights) / n]
    with progress_bar("smc", len(chosen.kernels), show=progress and len(chosen.kernels) > 1) as advance:
        for (b, later), kernel in zip(pairwise(chosen.betas[1:]), chosen.kernels, strict=True):
            if float(sizes[-1]) < threshold:
                at = resample(log_weights, n, "multinomial", generator)
                x, ancestors = x[at], ancestors[at]
                log_weights = torch.full_like(log_weights, float(log_weights.logsumexp(0)) - math.log(n))  # log Z so far
                resampled.append(b)
            x, correction, accepted = move(bridge, b, x, kernel, steps, generator)
            log_weights = check_log_weights(log_weights + correction + bridge.change(x)(b, later), "smc")
            acceptance.append(accepted)
            sizes.append(ess(log_weights) / n)
            advance(1)
    return Particles(
        x, log_weights, betas=chosen.betas, kernels=chosen.kernels, acceptance=torch.stack(acceptance) if acceptance else torch.zeros(0),
        ancestors=ancestors, resampled=resampled, ess_path=torch.stack(sizes),
    )  # fmt: skip
