"""Fixed mixtures of round normals."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flowkit.core.registry import TARGETS
from flowkit.core.shapes import check_event, positive_number, sample_shape, whole_number
from flowkit.core.target import Target
from flowkit.numerics.log_mixture import log_mixture
from flowkit.targets._components import means_of, mixture_symmetries, one_each
from flowkit.targets._exact import Exact


@TARGETS.register("gaussian_mixture")
class GaussianMixture(Target):
    """sum_k w_k N(mean_k, std_k^2 I), all given. Normalised; sampling is exact.

    Named ones: ``gmm40``, 40 normals far apart in the plane; ``hypercube``, one at each corner of {-1, 1}^dim; ``grid9``.

    Symmetries: ``sign`` and ``permutation`` (of the coordinates) where the set of components has them.

    Args:
        means: K rows of D numbers.
        std: standard deviation, one for all or one a component.
        weights: K positive numbers, scaled to sum to one; default all equal.

    Example:
        >>> import torch
        >>> from flowkit.targets import GaussianMixture
        >>> target = GaussianMixture.gmm40()
        >>> target.mode_counts(target.sample(1000, torch.Generator().manual_seed(0))).count_nonzero().item()
        40

    Reference: GMM-40: Midgley et al. (2023), Flow annealed importance sampling bootstrap, arXiv:2208.01893; the hypercube: Vaitl et al.
    (2024), Fast and unified path gradient estimators for normalizing flows, arXiv:2403.15881; the grid of nine: Zhang, Chen (2022),
    Path integral sampler, arXiv:2111.15141.
    """

    log_normalizer = 0.0
    can_sample = True

    def __init__(self, means: Sequence[Sequence[float]] | Tensor, std: float | Sequence[float] = 1.0, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        centres = means_of(means, "GaussianMixture")
        stds = one_each(std, len(centres), "GaussianMixture", "std")
        shares = one_each(1.0 if weights is None else weights, len(centres), "GaussianMixture", "weights")
        self.means, self.std, self.weights = means, std, weights
        self.event_shape: tuple[int, ...] = (centres.shape[1],)
        self.invariances = mixture_symmetries(centres, stds, shares / shares.sum())
        self.centres = Exact(functools.partial(np.array, centres))
        self.spreads = Exact(functools.partial(np.array, stds))
        self.shares = Exact(functools.partial(np.array, shares / shares.sum()))

    @classmethod
    def gmm40(cls) -> GaussianMixture:
        """GMM-40: means 80 (u - 1/2), u the first 40 x 2 uniform numbers of torch's generator with seed 0, std softplus(1) = 1.3133."""
        uniform = torch.rand((40, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
        return cls((80 * (uniform - 0.5)).tolist(), math.log1p(math.e))

    @classmethod
    def hypercube(cls, dim: int, variance: float = 0.5) -> GaussianMixture:
        """2^dim normals of equal weight at {-1, 1}^dim. The number that papers call the scale, 0.5, is the variance.

        Args:
            dim: number of coordinates, at most 16.
            variance: of each coordinate.
        """
        dim = whole_number(dim, "GaussianMixture.hypercube", "dim", 1, 17)
        variance = positive_number(variance, "GaussianMixture.hypercube", "variance")
        return cls([list(corner) for corner in itertools.product((-1.0, 1.0), repeat=dim)], math.sqrt(variance))

    @classmethod
    def grid9(cls, variance: float = 0.3) -> GaussianMixture:
        """Nine normals of equal weight at {-5, 0, 5}^2.

        Args:
            variance: of each coordinate.
        """
        variance = positive_number(variance, "GaussianMixture.grid9", "variance")
        return cls([list(place) for place in itertools.product((-5.0, 0.0, 5.0), repeat=2)], math.sqrt(variance))

    def _joint(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; mean_k, std_k^2 I): (*B, D) -> (*B, K)."""
        spread, dim = self.spreads.value.to(x.dtype), self.event_shape[0]
        white = (x.unsqueeze(-2) - self.centres.value.to(x.dtype)) / spread.unsqueeze(-1)
        return self.shares.value.to(x.dtype).log() - 0.5 * white.square().sum(-1) - dim * (spread.log() + 0.5 * math.log(2 * math.pi))

    def log_density(self, x: Tensor) -> Tensor:
        check_event(x, self.event_shape, "GaussianMixture.log_density")
        return log_mixture(self._joint(x), -1)

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        shape = sample_shape(n, "GaussianMixture.sample")
        centres = self.centres.value
        edges = self.shares.value.cumsum(0)[:-1].contiguous()
        which = torch.bucketize(torch.rand(shape, generator=generator, dtype=centres.dtype, device=centres.device), edges, right=True)
        noise = torch.randn((*shape, *self.event_shape), generator=generator, dtype=centres.dtype, device=centres.device)
        return centres[which] + self.spreads.value[which].unsqueeze(-1) * noise

    def modes(self) -> Tensor:
        """The means (K, D)."""
        return self.centres.value.clone()

    def mode_of(self, x: Tensor) -> Tensor:
        """The component that most likely made each event: (*B, D) -> (*B), int64."""
        check_event(x, self.event_shape, "GaussianMixture.mode_of")
        return self._joint(x).argmax(-1)

    def mode_counts(self, x: Tensor) -> Tensor:
        """How many events belong to each component: (*B, D) -> (K), int64."""
        return torch.bincount(self.mode_of(x).flatten(), minlength=len(self.centres.value))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GaussianMixture]]:
        yield "uneven", cls([[-1.0, 0.5], [1.5, 0.0], [0.0, 2.0]], [0.5, 1.0, 0.7], [1, 2, 3])
        yield "gmm40", cls.gmm40()
        yield "corners", cls.hypercube(3)
