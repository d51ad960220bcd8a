"""Importance sampling with a flow as the proposal."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ShapeError
from flowkit.core.evaluating import evaluating
from flowkit.core.progress import progress_bar
from flowkit.core.shapes import Context, check_event, flag, positive
from flowkit.core.target import Target
from flowkit.numerics.estimate import Estimate, mean_of
from flowkit.sampling._inputs import check_pair, check_single, draw_with_log_prob, exact_samples, log_density_of, parts
from flowkit.sampling.weighted import FEWEST, Weighted, check_log_weights, checked_clip


def importance(
    flow: Distribution,
    target: Target | Distribution,
    n: int,
    *,
    context: Context = None,
    batch_size: int = 4096,
    clip: float | None = None,
    exact: Tensor | None = None,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Weighted:
    """Draw from a flow and weigh the draws by what the target's density is over the flow's.

        log w = log p(x) - log q(x), x ~ q;   log Z ~ log mean w;   E_p f ~ sum w f / sum w;   ESS = (sum w)^2 / (N sum w^2)

    Exact for flows with an exact density. Where it is a lower bound (stochastic layers, diffusion samplers) the weights are those of the paths
    drawn, which are unbiased as well: E w = Z. Where it is an unbiased estimate (random traces) exp of it is not, and neither are the weights.

    Args:
        flow: any distribution. target: log_density known up to a constant. n: draws, 1000 at least for an effective sample size that means anything.
        context: of one condition, for a conditional flow (and target).
        batch_size: draws at a time: memory does not grow with n, but for the samples kept.
        clip: share of the largest weights to leave out of expectations and resampling (0.002 is in use); biased, off by default.
        exact: samples of the target (M, *event) for the upper bound ``eubo``; by default the target's own, where it can sample.
        progress: a bar on standard error where there are several batches.

    Returns:
        ``.ess (a share) .effective_samples .log_z .log_z_error .elbo .eubo .k_hat .weights .samples .log_weights .mean(f) .means(f) .resample(n)``.

    Raises:
        ShapeError: events or contexts do not fit. NonFiniteError: log-weights are NaN or plus infinity, or all weights are 0.

    Reference: Kong (1992); Vehtari et al. (2024), Pareto smoothed importance sampling, arXiv:1507.02646 (k_hat).

    Example:
        >>> import torch, flowkit as fk
        >>> normal = fk.distributions.DiagonalNormal((2,), scale=1.1)
        >>> generator = torch.Generator().manual_seed(0)
        >>> report = fk.sampling.importance(normal, fk.distributions.StandardNormal((2,)), 10_000, generator=generator, progress=False)
        >>> report.ess > 0.95, abs(report.log_z) < 4 * report.log_z_error
        (True, True)
    """
    check_pair(flow, target, "importance", ("flow", "target"))
    check_single((flow, target), context, "importance")
    n, batch_size, clip = positive(n, "importance", "n"), positive(batch_size, "importance", "batch_size"), checked_clip(clip, "importance")
    flag(progress, "importance", "progress")
    if n < FEWEST:
        warnings.warn(f"importance: effective sample sizes from {n} draws are far too high; take at least {FEWEST} before reporting one.", stacklevel=2)
    log_density = log_density_of(target, context, "importance")
    sizes = parts(n, batch_size)
    drawn: list[tuple[Tensor, Tensor]] = []
    with evaluating(flow, target), progress_bar("importance", n, show=progress and len(sizes) > 1) as advance:
        for size in sizes:
            x, log_prob = draw_with_log_prob(flow, size, context, generator)
            drawn.append((x, (log_density(x) - log_prob).double()))
            advance(size)
        exact = exact_samples(target, n, context, generator) if exact is None else _checked(exact, target)
        eubo = None if exact is None else _upper_bound(flow, target, exact.to(drawn[0][0]), context, batch_size)
    samples, log_weights = (torch.cat(part) for part in zip(*drawn, strict=True))
    return Weighted(samples, check_log_weights(log_weights, "importance"), clip, eubo=eubo)


def _checked(exact: Tensor, target: Target | Distribution) -> Tensor:
    """Samples (M, *event) of the target that were given."""
    check_event(exact, tuple(target.event_shape), "importance: exact")
    if exact.dim() != len(target.event_shape) + 1 or not len(exact):
        raise ShapeError(f"importance: expected exact samples (M, *event), M >= 1; got {tuple(exact.shape)}.")
    return exact


def _upper_bound(flow: Distribution, target: Target | Distribution, exact: Tensor, context: Context, batch_size: int) -> Estimate:
    """Mean log-weight of exact samples, plus infinity where the flow misses one."""
    log_density, log_prob = log_density_of(target, context, "importance"), log_density_of(flow, context, "importance")
    return mean_of(torch.cat([(log_density(x) - log_prob(x)).double() for x in exact.split(batch_size)]))
