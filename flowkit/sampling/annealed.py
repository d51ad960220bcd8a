"""Annealed importance sampling from a flow to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError
from flowkit.core.evaluating import evaluating
from flowkit.core.flow import Flow
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import Context, flag, positive, whole_number
from flowkit.core.target import Target
from flowkit.numerics import annealing
from flowkit.numerics.tempering import Plan, checked_share, plan
from flowkit.numerics.transitions import Kernel, Transition, transition
from flowkit.sampling._inputs import check_gradient, check_pair, check_single, context_for, log_density_of, parts
from flowkit.sampling.weighted import Weighted, check_log_weights


@dataclass(frozen=True, repr=False, eq=False)
class Annealed(Weighted):
    """Weighted ends of annealed paths.

    Attributes:
        betas: 0 = b_0 < ... < b_{K+1} = 1. kernels: the K transitions. acceptance: (K,), share of their steps accepted.
    """

    betas: list[float] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    acceptance: Tensor = field(default_factory=lambda: torch.zeros(0))


def annealed(
    start: Distribution,
    target: Target | Distribution,
    n: int,
    *,
    betas: int | Sequence[float] | Tensor | None = 10,
    kernel: str | Mapping[str, Any] | Kernel = "hmc",
    steps: int = 1,
    pilot: int = 512,
    share: float = 0.95,
    context: Context = None,
    batch_size: int = 4096,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Annealed:
    """Annealed importance sampling: from draws of a distribution through q^(1-b) p^b, by transitions that leave each invariant, to the target.

        log w = sum_{j=0}^{K} (b_{j+1} - b_j) (log p - log q)(x_j),   0 = b_0 < ... < b_{K+1} = 1;   E w = Z

    The last increment, to b = 1 exactly, is in it. A pilot population, thrown away afterwards, finds the step size at each b (and the b themselves
    where ``betas`` is None), so that E w = Z holds exactly for the chains reported. With kernel="ula" the weights hold the densities of the steps
    and are exact too.

    Args:
        start: q, a distribution or a flow whose density is exact. target: p.
        n: chains.
        betas: number of densities in between, a list from 0 to 1, or None to choose them so that each keeps ``share`` of the effective size.
        kernel: "hmc", "mala", "ula", "random_walk", ``{name: ..., step_size: ..., leapfrog_steps: ...}``, or a ``numerics.transitions.Kernel``.
        steps: transitions at each b.
        pilot: chains that tune; 0 for none, which keeps the step size given.
        batch_size: chains at a time.
        context: of one condition.

    Returns:
        what ``importance`` returns, and ``.betas .kernels .acceptance``.

    Raises:
        ConfigError: a target without gradient with a kernel that needs one; what cannot be built. NonFiniteError: log-weights that are NaN.

    Reference: Neal (2001), Annealed importance sampling, arXiv:physics/9803008.

    Example:
        >>> import torch, flowkit as fk
        >>> generator = torch.Generator().manual_seed(0)
        >>> wide = fk.distributions.DiagonalNormal((2,), scale=2.0)
        >>> run = fk.sampling.annealed(wide, fk.targets.ManyWell(2), 2000, generator=generator, progress=False)
        >>> abs(run.log_z - fk.targets.ManyWell(2).log_normalizer) < 4 * run.log_z_error
        True
    """
    path = Path(start, target, context, "annealed")
    n, batch_size = positive(n, "annealed", "n"), positive(batch_size, "annealed", "batch_size")
    rule, steps = transition(kernel, "annealed"), positive(steps, "annealed", "steps")
    flag(progress, "annealed", "progress")
    sizes = parts(n, batch_size)
    with evaluating(start, target):
        chosen = path.plan(rule, betas, pilot, share, steps, generator)
        with progress_bar("annealed", len(sizes) * len(chosen.kernels), show=progress and len(sizes) > 1) as advance:
            runs = [
                annealing.annealed(
                    path.log_start, path.log_end, path.draw(size, generator), betas=chosen.betas, kernel=chosen.kernels, steps=steps,
                    generator=generator, tick=lambda: advance(1),
                )
                for size in sizes
            ]  # fmt: skip
    acceptance = sum((run.acceptance * size for run, size in zip(runs, sizes, strict=True)), start=torch.zeros_like(runs[0].acceptance)) / n
    log_weights = check_log_weights(torch.cat([run.log_weights for run in runs]), "annealed")
    return Annealed(torch.cat([run.samples for run in runs]), log_weights, betas=chosen.betas, kernels=chosen.kernels, acceptance=acceptance)


class Path:
    """The densities between a start that can be drawn from and a target, and how they are gone through.

    Args:
        start, target, context: as for ``annealed``. who: in messages.
    """

    def __init__(self, start: Distribution, target: Target | Distribution, context: Context, who: str) -> None:
        check_pair(start, target, who, ("start", "target"))
        check_single((start, target), context, who)
        if isinstance(start, Flow) and start.density != "exact":
            raise ConfigError(f"{who}: expected a start with an exact density; that of {type(start).__name__} is {start.density!r}. Use importance.")
        self.start, self.target, self.context, self.who = start, target, context, who
        self.log_start, self.log_end = log_density_of(start, context, who), log_density_of(target, context, who)

    def draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n draws of the start (n, *event)."""
        return self.start.sample((n,), context_for(self.start, self.context), generator)

    def plan(
        self, kernel: Kernel, betas: int | Sequence[float] | Tensor | None, pilot: int, share: float, steps: int, generator: torch.Generator | None
    ) -> Plan:
        """Temperatures and step sizes from a pilot population of ``pilot`` chains, or as given without one."""
        if isinstance(kernel, Transition) and kernel.needs_gradient:
            check_gradient(self.log_end, self.draw(2, generator), type(self.target).__name__, self.who)
        pilot, share = whole_number(pilot, self.who, "pilot", 0), checked_share(share, self.who, "share")
        if pilot:
            return plan(self.log_start, self.log_end, self.draw(pilot, generator), kernel=kernel, betas=betas, share=share, steps=steps, generator=generator)
        if betas is None:
            raise ConfigError(f"{self.who}: betas=None needs a pilot population to choose them. Pass pilot=512, or betas.")
        fixed = annealing.schedule(betas)
        return Plan(fixed, annealing.one_each(kernel, len(fixed) - 2))
