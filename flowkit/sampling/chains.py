"""Markov chains and what they say about themselves."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.evaluating import evaluating
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import check_event, flag, positive, whole_number
from flowkit.numerics.chains import effective_sample_size, r_hat
from flowkit.numerics.estimate import Estimate
from flowkit.numerics.transitions import Kernel, Transition
from flowkit.sampling._inputs import Density, check_density, log_density_of
from flowkit.sampling.weighted import per_sample

FEWEST_STEPS = 4  # that chains can be compared by


@dataclass(frozen=True, repr=False, eq=False)
class Chains:
    """Samples of several Markov chains.

    Attributes:
        samples: (T, C, *event), T steps of C chains. acceptance: (C,), share of steps accepted after the warm-up.
        kernel: the transition they moved by, with the step size that the warm-up found; None for independent proposals.
    """

    samples: Tensor
    acceptance: Tensor
    kernel: Kernel | None = None

    @functools.cached_property
    def r_hat(self) -> Tensor:
        """Rank-normalised split R-hat (*event); above 1.01 the chains have not mixed."""
        return r_hat(self.samples)

    @functools.cached_property
    def effective_samples(self) -> Tensor:
        """How many independent samples the T C are worth for the mean of each coordinate (*event): a number, not the share that ``Weighted.ess`` is."""
        return effective_sample_size(self.samples)

    @property
    def autocorrelation_time(self) -> Tensor:
        """Integrated autocorrelation time of each coordinate (*event), in steps kept: T C / effective_samples."""
        return self.samples.shape[0] * self.samples.shape[1] / self.effective_samples

    @property
    def flat(self) -> Tensor:
        """All samples (T C, *event)."""
        return self.samples.flatten(0, 1)

    def mean(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """Expectation of a number f(x), with the standard error (``.standard_error``) that the autocorrelation leaves.

        Args:
            f: (N, *event) -> (N).
        """
        mean, error = self.means(f)
        if mean.dim():
            raise ShapeError(f"mean: expected f to give one number a sample; got {tuple(mean.shape)} of them. Use means.")
        return Estimate(float(mean), float(error))

    def means(self, f: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """As ``mean``, for f: (N, *event) -> (N, *shape), by default the samples themselves: the means and their errors (*shape), float64."""
        steps, count = self.samples.shape[:2]
        values = per_sample(self.flat if f is None else f(self.flat), steps * count)
        return values.mean(0), values.std(0) / effective_sample_size(values.unflatten(0, (steps, count))).sqrt()

    def __repr__(self) -> str:
        steps, count = self.samples.shape[:2]
        parts = [f"steps={steps}", f"chains={count}", f"acceptance={float(self.acceptance.mean()):.3f}"]
        if steps < FEWEST_STEPS:
            parts.append(f"fewer than {FEWEST_STEPS} steps: no diagnostics")
        elif bool(self.effective_samples.isnan().all()):
            parts.append("nothing varies: no diagnostics")
        else:
            worst = float(self.r_hat.nan_to_num(nan=0.0, posinf=math.inf).max())
            least = float(self.effective_samples.nan_to_num(nan=math.inf).min())
            parts += [f"least effective_samples={least:.0f}", f"worst r_hat={worst:.3f}"]
        return f"Chains({', '.join(parts)})"


def run_chains(
    target: Density, start: Tensor, steps: int, kernel: Kernel, who: str, *, warmup: int, thin: int, progress: bool, generator: torch.Generator | None
) -> Chains:
    """``warmup`` steps, in which the step size finds its target acceptance, then ``steps`` kept, each after ``thin``."""
    check_density(target, who, "target")
    if isinstance(target, Distribution) and target.context_shape is not None:
        raise ConfigError(f"{who}: expected a target without context; {type(target).__name__} takes one. Fix it first: flow.condition(context).")
    check_event(start, tuple(target.event_shape), who)
    if start.dim() != len(target.event_shape) + 1 or not len(start):
        raise ShapeError(f"{who}: expected starting points (C, *event) of C >= 1 chains; got {tuple(start.shape)}.")
    steps, warmup, thin = positive(steps, who, "steps"), whole_number(warmup, who, "warmup", 0), positive(thin, who, "thin")
    flag(progress, who, "progress")
    log_density = log_density_of(target, None, who)
    kept, moved = [], []
    with evaluating(target), progress_bar(who, warmup + steps * thin, show=progress) as advance:
        _check_start(log_density(start), who)
        x, kernel = _warm(log_density, start.clone() if start.is_inference() else start.detach(), kernel, warmup, generator, advance)
        for step in range(steps * thin):
            x, accepted = kernel(log_density, x, generator)
            moved.append(accepted)
            if (step + 1) % thin == 0:
                kept.append(x)
            advance(1)
        lost = int((~torch.isfinite(log_density(x))).sum())  # of steps that are accepted or not, none is
    if lost:
        raise NonFiniteError(f"{who}: {lost} of {len(x)} chains have left all bounds. Use a smaller step_size, or steps that are accepted or not.")
    return Chains(torch.stack(kept), torch.stack(moved).double().mean(0), kernel)


def _warm(
    log_density: Callable[[Tensor], Tensor], x: Tensor, kernel: Kernel, steps: int, generator: torch.Generator | None, advance: Callable[[int], Any]
) -> tuple[Tensor, Kernel]:
    """Robbins and Monro's rule on the log of the step size, and at the end its mean over the second half of the steps."""
    first, factor, total = kernel, 0.0, 0.0
    later = steps - steps // 2
    for step in range(steps):
        x, accepted = kernel(log_density, x, generator)
        if isinstance(first, Transition) and first.target_acceptance is not None:
            factor += 2 * (step + 1) ** -0.6 * (float(accepted.double().mean()) - first.target_acceptance)
            total += factor / later if step >= steps - later else 0.0
            kernel = first.scaled(math.exp(total if step == steps - 1 else factor))
        advance(1)
    return x, kernel


def _check_start(log_density: Tensor, who: str) -> None:
    bad = int((~torch.isfinite(log_density)).sum())
    if bad:
        raise NonFiniteError(f"{who}: {bad} of {len(log_density)} starting points have a log-density that is NaN or infinite. Start where the target has mass.")
