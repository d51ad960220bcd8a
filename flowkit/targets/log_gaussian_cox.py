"""Log-Gaussian Cox processes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event, flag, positive, positive_number, sample_shape, whole_number
from flowkit.core.target import Target
from flowkit.targets._cox_prior import bin_counts, counts_of, prior_factor, whitening_factor
from flowkit.targets._exact import Exact
from flowkit.targets._finnish_pines import finnish_pines
from flowkit.targets._scalars import finite_number


@TARGETS.register("log_gaussian_cox")
class LogGaussianCox(Target):
    """Log-intensity f of a point process on a grid of d = grid^2 cells of the unit square, given the number y_i of points in each.

        log p(f) = log N(f; mean, K) + sum_i ( y_i f_i - exp(f_i) / d ),    K_ij = variance exp(-33 |i - j| / grid),

    |i - j| the distance of two cells in cells, mean = log 126 - variance / 2; terms log y_i! are left out. ``whitened`` is the same density
    of w, f = mean + L w with L L^T = K, and has the same normalizer. By default y are the 126 Finnish pine saplings. log_normalizer is None;
    long runs of sequential Monte Carlo gave 501.806 (grid 40) and 503.394 (grid 32) for them. With ``likelihood=False`` the density is the
    normal alone: log_normalizer 0, exact samples.

    Cost O(d^2) an event, O(d^3) once.

    Args:
        grid: cells along each side.
        counts: d whole numbers >= 0, row after row; default those of the Finnish pines.
        whitened: whether events are w in place of f.
        likelihood: whether there is a data term.
        variance: of f in each cell, > 0.
        mean: of f; default log 126 - variance / 2.

    Example:
        >>> import torch
        >>> from flowkit.targets import LogGaussianCox
        >>> prior = LogGaussianCox(4, whitened=True, likelihood=False)
        >>> round(prior.log_density(torch.zeros(16)).item(), 4)  # -8 log(2 pi)
        -14.703

    Reference: Moller, Syversveen, Waagepetersen (1998), Log Gaussian Cox processes, Scandinavian J. Statistics 25, 451; as a benchmark:
    Arbel, Matthews, Doucet (2021), Annealed flow transport Monte Carlo, arXiv:2102.07501. Data: ``finpines``, Baddeley, Turner, spatstat.
    """

    VARIANCE: ClassVar[float] = 1.91
    POINTS: ClassVar[int] = 126

    def __init__(
        self,
        grid: int = 40,
        counts: Sequence[float] | Tensor | None = None,
        *,
        whitened: bool = False,
        likelihood: bool = True,
        variance: float = VARIANCE,
        mean: float | None = None,
    ) -> None:
        super().__init__()
        cells = positive(grid, "LogGaussianCox", "grid")
        self.grid, self.counts, self.variance, self.mean = cells, counts, positive_number(variance, "LogGaussianCox", "variance"), mean
        self.whitened, self.likelihood = flag(whitened, "LogGaussianCox", "whitened"), flag(likelihood, "LogGaussianCox", "likelihood")
        self.centre = math.log(self.POINTS) - variance / 2 if mean is None else finite_number(mean, "LogGaussianCox", "mean")
        self.event_shape: tuple[int, ...] = (cells**2,)
        observed = bin_counts(finnish_pines(), cells, "LogGaussianCox") if counts is None else counts_of(counts, cells, "LogGaussianCox")
        self.observed = Exact(functools.partial(np.array, observed))
        factor = prior_factor(cells, float(variance))
        self.log_volume = 0.0 if self.whitened else float(np.log(np.diag(factor)).sum())
        self.factor = Exact(functools.partial(prior_factor if self.whitened else whitening_factor, cells, float(variance)))
        self.can_sample = not self.likelihood
        self.log_normalizer = 0.0 if self.can_sample else None

    @classmethod
    def from_points(cls, points: Any, grid: int = 40, **options: Any) -> LogGaussianCox:
        """The target of other data: points (N, 2) in the unit square.

        Args:
            points: rows (x, y), each in [0, 1].
            grid: cells along each side.
            options: further arguments of LogGaussianCox; mean is log N - variance / 2 by default.
        """
        counts = bin_counts(points, positive(grid, "LogGaussianCox.from_points", "grid"), "LogGaussianCox.from_points")
        variance = positive_number(options.get("variance", cls.VARIANCE), "LogGaussianCox.from_points", "variance")
        mean = math.log(max(counts.sum(), 1.0)) - variance / 2
        return cls(grid, [int(count) for count in counts], **{"mean": mean} | options)

    @classmethod
    def simulated(cls, grid: int = 40, *, seed: int = 0, **options: Any) -> LogGaussianCox:
        """The target of counts that are drawn from the model itself.

        Args:
            grid: cells along each side.
            seed: of the draw.
            options: further arguments of LogGaussianCox.
        """
        model = cls(grid, [0] * positive(grid, "LogGaussianCox.simulated", "grid") ** 2, **{**options, "whitened": True})
        random = np.random.default_rng(whole_number(seed, "LogGaussianCox.simulated", "seed", 0))
        field = model.centre + prior_factor(model.grid, float(model.variance)) @ random.standard_normal(model.grid**2)
        return cls(grid, random.poisson(np.exp(field) / model.grid**2).tolist(), **options)

    def field(self, x: Tensor) -> Tensor:
        """The log-intensity f of events: (*B, d) -> (*B, d)."""
        return self.centre + x @ self.factor.value.to(x.dtype).mT if self.whitened else x

    def log_density(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "LogGaussianCox.log_density")
        white = x if self.whitened else (x - self.centre) @ self.factor.value.to(x.dtype).mT
        prior = -0.5 * white.square().sum(-1) - self.log_volume - 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        if not self.likelihood:
            return prior
        field = self.field(x)
        return prior + (self.observed.value.to(x.dtype) * field - field.exp() / self.event_shape[0]).sum(-1)

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor | None:
        shape = sample_shape(n, "LogGaussianCox.sample")
        if not self.can_sample:
            return None
        own = self.factor.value.dtype
        factor = self.factor.value.to(torch.promote_types(own, torch.float32))  # no triangular solve is of half precision
        noise = torch.randn((*shape, *self.event_shape), generator=generator, dtype=factor.dtype, device=factor.device)
        if self.whitened:
            return noise.to(own)
        solved = torch.linalg.solve_triangular(factor.mT, noise.reshape(-1, *self.event_shape), upper=True, left=False)
        return (self.centre + solved.reshape(noise.shape)).to(own)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LogGaussianCox]]:
        yield "pines", cls(4)
        yield "whitened", cls(3, whitened=True)
        yield "prior", cls(2, likelihood=False)
