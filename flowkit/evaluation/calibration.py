"""Is a flow calibrated: are its latents normal, do its regions hold the share of the data that they should."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.evaluating import evaluating
from flowkit.core.flow import Flow
from flowkit.core.shapes import Context, context_batch, expand_context, positive
from flowkit.distributions.standard_normal import StandardNormal
from flowkit.evaluation._inputs import log_prob_of


class LatentNormality(NamedTuple):
    """Kolmogorov-Smirnov tests and quantiles of the latents, each dimension on its own.

    Args:
        statistic: (d,), largest distance between the empirical and the normal distribution function.
        p_value: (d,), that a normal sample of this size is as far off.
        normal_quantiles: (Q,), of N(0, 1).
        latent_quantiles: (Q, d), of the latents, at the same probabilities.
        events: N, latents tested.
    """

    statistic: Tensor
    p_value: Tensor
    normal_quantiles: Tensor
    latent_quantiles: Tensor
    events: int


class Coverage(NamedTuple):
    """How much held-out data the model's highest-density regions hold.

    Args:
        ranks: (N,), for each event the model's probability of a denser place; U(0, 1) for the true model.
        levels: (L,), probability of a region under the model.
        observed: (L,), share of the events inside it; equal to ``levels`` up to ``standard_error`` for the true model.
        standard_error: (L,), of ``observed`` for the true model.
        statistic, p_value: Kolmogorov-Smirnov test that the ranks are uniform.
    """

    ranks: Tensor
    levels: Tensor
    observed: Tensor
    standard_error: Tensor
    statistic: float
    p_value: float


def latent_normality(flow: Flow, x: Tensor, context: Context = None, *, quantiles: int = 99, batch_size: int = 4096) -> LatentNormality:
    """Test that held-out data go to standard normal latents, dimension by dimension.

    With d dimensions expect the smallest p-value to be near 1/(d + 1): compare it with 0.05/d. Normal margins do not
    prove a normal joint; ``coverage`` looks at all dimensions together.

    Args:
        flow: a flow whose base is the standard normal.
        x: (N, *event); context: (N, *context) or one that broadcasts.
        quantiles: points of the quantile-quantile plot.
        batch_size: events normalised at a time.

    Raises:
        ConfigError: the base is another distribution.
    """
    if not isinstance(flow, Flow) or not isinstance(flow.base, StandardNormal):
        base = type(flow.base).__name__ if isinstance(flow, Flow) else type(flow).__name__
        raise ConfigError(f"latent_normality: expected a flow with a standard normal base; got {base}. Use coverage, which takes any.")
    with evaluating(flow):
        z = flow.to_latent(x, context, batch_size=batch_size)
    z = z.double().reshape(math.prod(z.shape[: z.dim() - len(flow.base.event_shape)]), -1)
    n = len(z)
    if n < 2:
        raise ShapeError(f"latent_normality: expected at least 2 events; got {n}.")
    if not bool(torch.isfinite(z).all()):
        raise NonFiniteError("latent_normality: a latent is NaN or infinite. Look for data outside the support, or a layer that saturates.")
    statistic = _ks_statistic(torch.special.ndtr(z))
    quantiles = positive(quantiles, "latent_normality", "quantiles")
    levels = (torch.arange(quantiles, dtype=z.dtype, device=z.device) + 0.5) / quantiles
    return LatentNormality(statistic, _ks_p_value(statistic, n), torch.special.ndtri(levels), _quantiles(z, levels), n)


def coverage(
    flow: Distribution,
    x: Tensor,
    context: Context = None,
    *,
    samples: int = 2000,
    levels: int = 99,
    batch_size: int = 4096,
    generator: torch.Generator | None = None,
) -> Coverage:
    """Coverage of the model's highest-density regions.

        rank(x) = P_{x' ~ model}(log p(x') > log p(x));   observed(a) = share of the events with rank <= a

    Above the diagonal the model is too wide, below it too narrow (or puts mass in the wrong place). An event outside
    the support has rank 1.

    Args:
        flow: any distribution that can be sampled.
        x: (N, *event); context: (N, *context), each event's own, or one that broadcasts.
        samples: model samples that a rank is counted among; for a conditional model, for each event.
        levels: regions, evenly spaced in (0, 1).
        batch_size: densities evaluated at a time.
        generator: for the samples.

    Reference:
        Hermans et al. (2022), A trust crisis in simulation-based inference?, arXiv:2110.06581, section 2 (expected coverage).
    """
    samples = positive(samples, "coverage", "samples")
    batch_size = positive(batch_size, "coverage", "batch_size")
    with evaluating(flow):
        log_prob = log_prob_of(flow, x, context, batch_size, generator, "coverage").reshape(-1)
        if len(log_prob) < 2:
            raise ShapeError(f"coverage: expected at least 2 events; got {len(log_prob)}.")
        if context_batch(context, flow.context_shape).numel() > 1:
            ranks = _conditional_ranks(flow, log_prob, context, samples, batch_size, generator)
        else:
            sizes = [min(batch_size, samples - start) for start in range(0, samples, batch_size)]
            drawn = torch.cat([_sampled_log_prob(flow, (size,), context, batch_size, generator).reshape(-1) for size in sizes])
            ranks = 1 - torch.searchsorted(drawn.sort().values, log_prob, right=True).double() / samples
    n = len(ranks)
    levels = positive(levels, "coverage", "levels")
    level = torch.arange(1, levels + 1, dtype=torch.float64, device=ranks.device) / (levels + 1)
    observed = torch.searchsorted(ranks.sort().values, level, right=True).double() / n
    statistic = _ks_statistic(ranks[:, None])
    # a rank is counted among finitely many samples, which adds their error to that of the events
    effective = n if context_batch(context, flow.context_shape).numel() > 1 else n * samples / (n + samples)
    error = (level * (1 - level) / effective).sqrt()
    return Coverage(ranks, level, observed, error, float(statistic), float(_ks_p_value(statistic, effective)))


def _sampled_log_prob(flow: Distribution, shape: tuple[int, ...], context: Context, batch_size: int, generator: torch.Generator | None) -> Tensor:
    drawn = flow.sample(shape, context, generator=generator)
    return log_prob_of(flow, drawn, context, batch_size, generator, "coverage")


def _conditional_ranks(
    flow: Distribution, log_prob: Tensor, context: Context, samples: int, batch_size: int, generator: torch.Generator | None
) -> Tensor:
    """Each event's rank among samples of its own context, some events at a time."""
    context = expand_context(context, flow.context_shape, (len(log_prob),))
    step = max(1, batch_size // samples)
    ranks = []
    for start in range(0, len(log_prob), step):
        part = slice(start, start + step)
        given = {key: value[part] for key, value in context.items()} if isinstance(context, dict) else context[part]  # type: ignore[index]
        drawn = _sampled_log_prob(flow, (samples,), given, batch_size, generator)
        ranks.append((drawn > log_prob[part]).double().mean(0))
    return torch.cat(ranks)


def _quantiles(z: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of each column by linear interpolation, of any number of rows: (N, d) -> (Q, d)."""
    ordered = z.sort(0).values
    place = levels * (len(z) - 1)
    low = place.floor().long()
    return torch.lerp(ordered[low], ordered[(low + 1).clamp_max(len(z) - 1)], (place - low)[:, None])


def _ks_statistic(u: Tensor) -> Tensor:
    """Largest distance of each column's distribution function from that of U(0, 1): (N, d) -> (d,)."""
    n = len(u)
    u = u.sort(0).values
    steps = torch.arange(n + 1, dtype=u.dtype, device=u.device)[:, None] / n
    return torch.maximum((steps[1:] - u).amax(0), (u - steps[:-1]).amax(0))


def _ks_p_value(statistic: Tensor, n: float) -> Tensor:
    """P(D_n >= statistic) by Kolmogorov's series with Stephens' (1970) correction for finite n."""
    t = statistic * (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n))
    k = torch.arange(1, 101, dtype=t.dtype, device=t.device)
    series = 2 * ((-1.0) ** (k - 1) * torch.exp(-2 * (k * t[..., None]) ** 2)).sum(-1)
    # below 0.2 the series converges too slowly, and the probability is 1 to 12 digits
    return torch.where(t < 0.2, torch.ones_like(t), series.clamp(0, 1))
