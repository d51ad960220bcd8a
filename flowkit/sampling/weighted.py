"""Weighted samples, and what can be said with them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, NonFiniteError, ShapeError
from flowkit.core.shapes import positive
from flowkit.numerics.annealing import check_weights
from flowkit.numerics.estimate import Estimate, mean_of
from flowkit.numerics.importance import Resampling, ess, log_mean_weight, pareto_shape, resample

FEWEST = 1000  # samples from which an effective sample size is worth reporting


@dataclass(frozen=True, repr=False, eq=False)
class Weighted:
    """Samples of a proposal with log-weights that turn them into samples of a target.

    Attributes:
        samples: (N, *event).
        log_weights: (N) float64, log target minus log proposal, the target unnormalised; minus infinity is weight 0.
        clip: share of the largest weights that ``weights``, ``mean`` and ``resample`` set to 0 (which biases them), None to keep all.
        eubo: mean log-weight of exact samples of the target, an upper bound on log Z; None where there were none.
        ancestors: (N) int64, which samples are not independent because they come from one draw; None where all are.
    """

    samples: Tensor
    log_weights: Tensor
    clip: float | None = None
    eubo: Estimate | None = field(default=None, kw_only=True)
    ancestors: Tensor | None = field(default=None, kw_only=True)

    @functools.cached_property
    def ess(self) -> float:
        """Kish's effective sample size as a share of the N samples, (sum w)^2 / (N sum w^2), in (0, 1]; never clipped.

        From few samples it is far too high: with N below 1000 it says nothing. ``effective_samples`` is the number.
        """
        return float(ess(self.log_weights)) / len(self.log_weights)

    @property
    def effective_samples(self) -> float:
        """How many independent samples the N are worth, N ``ess``: a number, in (0, N]."""
        return self.ess * len(self.log_weights)

    @property
    def clipped_ess(self) -> float:
        """``ess``, a share, of the weights in use, those that ``clip`` left."""
        return float(ess(self._used)) / len(self._used)

    @functools.cached_property
    def log_z(self) -> float:
        """log of the mean weight: consistent for log Z of the target over that of the proposal, low on average; never clipped."""
        return log_mean_weight(self.log_weights)[0]

    @functools.cached_property
    def log_z_error(self) -> float:
        """Standard error of ``log_z`` by the delta method; not to be trusted where ``k_hat`` is above 0.7."""
        return log_mean_weight(self.log_weights)[1]

    @property
    def elbo(self) -> Estimate:
        """Mean log-weight, a lower bound on log Z, with its standard error, NaN where samples are not independent."""
        return mean_of(self.log_weights) if self.ancestors is None else Estimate(float(self.log_weights.mean()))

    @functools.cached_property
    def k_hat(self) -> float:
        """Shape of the tail of the weights: up to 0.7 they can be trusted (``numerics.importance.pareto_shape``)."""
        return pareto_shape(self.log_weights)

    @property
    def weights(self) -> Tensor:
        """Self-normalised weights (N) float64, which sum to 1."""
        return torch.softmax(self._used, 0)

    def mean(self, f: Callable[[Tensor], Tensor]) -> Estimate:
        """Expectation under the target of a number f(x), with its standard error (``.standard_error``) by the delta method.

            sum W_n f_n,   error^2 = sum W_n^2 (f_n - mean)^2

        Args:
            f: (N, *event) -> (N).
        """
        mean, error = self.means(f)
        if mean.dim():
            raise ShapeError(f"mean: expected f to give one number a sample; got {tuple(mean.shape)} of them. Use means.")
        return Estimate(float(mean), float(error))

    def means(self, f: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """As ``mean``, for f: (N, *event) -> (N, *shape), by default the samples themselves: the means and their errors (*shape), float64."""
        values = per_sample(self.samples if f is None else f(self.samples), len(self.weights))
        weights = self.weights.reshape(-1, *[1] * (values.dim() - 1))
        values = torch.where(weights > 0, values, torch.zeros_like(values))  # what has no weight may be anything
        mean = (weights * values).sum(0)
        deviations = weights * (values - mean)
        if self.ancestors is not None:
            deviations = torch.zeros_like(deviations).index_add(0, self.ancestors, deviations)
        error = deviations.square().sum(0).sqrt()
        return mean, error if len(self.weights) > 1 else torch.full_like(error, math.nan)

    def resample(self, n: int | None = None, *, scheme: Resampling = "systematic", generator: torch.Generator | None = None) -> Tensor:
        """n samples of about equal weight (n, *event), N by default, in random order; some come more than once."""
        count = len(self.samples) if n is None else positive(n, "resample", "n")
        at = resample(self._used, count, scheme, generator)
        device = at.device if generator is None else generator.device
        order = torch.randperm(count, generator=generator, device=device).to(at.device)
        return self.samples[at[order].to(self.samples.device)]

    @functools.cached_property
    def _used(self) -> Tensor:
        """The log-weights that ``clip`` leaves."""
        if self.clip is None:
            return self.log_weights
        left_out = math.ceil(self.clip * len(self.log_weights))
        if left_out >= int((self.log_weights > -math.inf).sum()):
            raise ConfigError(f"{type(self).__name__}: clip={self.clip} leaves out all samples that have a weight. Take a smaller share, or None.")
        return self.log_weights.index_fill(0, self.log_weights.topk(left_out).indices, -math.inf)

    def __repr__(self) -> str:
        parts = [f"N={len(self.log_weights)}", f"ess={self.ess:.2%}", f"log_z={self.log_z:.4f} ± {self.log_z_error:.2g}"]
        parts += [f"elbo={self.elbo:.4f}", *([] if self.eubo is None else [f"eubo={self.eubo:.4f}"]), f"k_hat={self.k_hat:.2f}"]
        if len(self.log_weights) < FEWEST:
            parts.append(f"from fewer than {FEWEST} samples: ess too high")
        return f"{type(self).__name__}({', '.join(parts)})"


def per_sample(values: Any, count: int) -> Tensor:
    """What f gave for ``count`` samples, (N, *shape), as constants in float64."""
    got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if not isinstance(values, Tensor) or values.dim() == 0 or len(values) != count:
        raise ShapeError(f"mean: expected f to give (N, ...) with N = {count}; got {got}.")
    return values.detach().double()


def check_log_weights(log_weights: Tensor, who: str) -> Tensor:
    """Log-weights in float64, detached.

    Raises:
        NonFiniteError: some are NaN or plus infinity, or all are minus infinity.
    """
    check_weights(log_weights, who)
    if bool(torch.isneginf(log_weights).all()):
        raise NonFiniteError(f"{who}: all {log_weights.numel()} weights are 0: no draw lies where the target has mass. Widen or train the proposal.")
    return log_weights.detach().double()


def checked_clip(clip: float | None, who: str) -> float | None:
    """A share in (0, 1), or None."""
    if clip is not None and (isinstance(clip, bool) or not isinstance(clip, int | float) or not 0 < clip < 1):
        raise ConfigError(f"{who}: expected clip to be the share of the largest weights to leave out, between 0 and 1, or None; got {clip!r}.")
    return clip
