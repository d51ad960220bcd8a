"""Learned mixtures of normals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowkit.core.distribution import Distribution
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import DISTRIBUTIONS
from flowkit.core.shapes import check_event, positive, sum_event
from flowkit.core.tally import HALF_LOG_2PI
from flowkit.distributions._choice import choose
from flowkit.distributions._cholesky import log_volume, lower_factor, raw_factor, whiten
from flowkit.distributions._kmeans import kmeans
from flowkit.numerics.log_mixture import log_mixture

FORMS = ("full", "tied", "diagonal", "spherical")


@DISTRIBUTIONS.register("gaussian_mixture")
class GaussianMixture(Distribution):
    """sum_k w_k N(mean_k, S_k), weights, means and covariances learned.

    Means start at random; ``start_at_clusters`` starts everything from data. Sampling picks a component, then draws from
    it: samples are differentiable in means and covariances but not in the weights, so ``reparametrized`` is False.
    A temperature scales the spread of each component around its mean and leaves the weights. Cost O(K D^2) an event
    (O(K D) when diagonal or spherical).

    Args:
        features: number D of coordinates.
        components: number K of normals.
        covariance: ``full`` (one matrix each), ``tied`` (one matrix for all), ``diagonal``, ``spherical`` (one number each).

    Example:
        >>> import torch
        >>> from flowkit.distributions import GaussianMixture
        >>> _ = torch.manual_seed(0)
        >>> x = torch.cat([torch.randn(50, 2) - 5, torch.randn(50, 2) + 5])
        >>> GaussianMixture(2, 2).start_at_clusters(x).weights().tolist()
        [0.5, 0.5]
    """

    reparametrized = False

    def __init__(self, features: int, components: int, *, covariance: Literal["full", "tied", "diagonal", "spherical"] = "full") -> None:
        super().__init__()
        features, components = positive(features, self.who, "features"), positive(components, self.who, "components")
        self.features, self.components, self.covariance = features, components, covariance
        self.event_shape = (features,)
        if covariance not in FORMS:
            raise ConfigError(f"{self.who}: expected covariance to be one of {', '.join(FORMS)}; got {covariance!r}.")
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, features))
        if self._dense:
            self.factor = nn.Parameter(torch.zeros(components if covariance == "full" else 1, features, features))
        else:
            self.log_scale = nn.Parameter(torch.zeros(components, features if covariance == "diagonal" else 1))

    @property
    def _dense(self) -> bool:
        return self.covariance in ("full", "tied")

    def weights(self) -> Tensor:
        """Component weights (K), summing to one."""
        return self.logits.softmax(0)

    def covariances(self) -> Tensor:
        """Component covariances (K, D, D)."""
        if self._dense:
            lower = lower_factor(self.factor)
            return (lower @ lower.mT).expand(self.components, -1, -1)
        return (2 * self.log_scale).exp().expand(-1, self.features).diag_embed()

    def responsibilities(self, x: Tensor) -> Tensor:
        """Posterior probability of each component: (*B, D) -> (*B, K)."""
        check_event(x, self.event_shape, f"{self.who}.responsibilities")
        return self._joint(x).softmax(-1)

    def _joint(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; mean_k, S_k): (*B, D) -> (*B, K)."""
        rows = x.reshape(-1, self.features)
        difference = rows - self.means[:, None]
        if self._dense:
            white, volume = whiten(self.factor, difference), log_volume(self.factor)
        else:
            white, volume = difference * (-self.log_scale[:, None]).exp(), self.log_scale.expand(-1, self.features).sum(-1)
        log_prob = sum_event(-0.5 * white.square() - HALF_LOG_2PI, 1).mT - volume
        return (log_prob + self.logits.log_softmax(0)).reshape(*x.shape[:-1], self.components)

    def _log_prob(self, x: Tensor, context: Any) -> Tensor:
        return log_mixture(self._joint(x), -1)

    def _rsample(self, shape: tuple[int, ...], context: Any, generator: torch.Generator | None, temperature: float) -> Tensor:
        which = choose(self.weights().detach(), shape, generator)
        noise = torch.randn((*shape, self.features), generator=generator, dtype=self.like.dtype, device=self.like.device)
        if self._dense:
            lower = lower_factor(self.factor)
            each = lower[which] if self.covariance == "full" else lower[0]
            spread = (each @ noise.unsqueeze(-1)).squeeze(-1)
        else:
            spread = self.log_scale[which].exp() * noise
        return self.means[which] + temperature * spread

    def start_at_clusters(self, x: Tensor, *, generator: torch.Generator | None = None) -> GaussianMixture:
        """Set weights, means and covariances to those of a k-means clustering of data, and return the mixture.

        Args:
            x: finite data (N, D), N >= K.
            generator: source of the k-means seeds, on the device of ``x``.

        Raises:
            ShapeError: not (N, D), or fewer rows than components.
        """
        check_event(x, self.event_shape, f"{self.who}.start_at_clusters")
        if x.dim() != 2 or len(x) < self.components:
            raise ShapeError(f"{self.who}.start_at_clusters: expected data (N, {self.features}) with N >= {self.components}; got {tuple(x.shape)}.")
        x = x.detach().double()
        centres, labels = kmeans(x, self.components, generator=generator)
        counts = torch.bincount(labels, minlength=self.components).clamp(min=1)
        floor = 1e-6 * x.var(0, correction=0).mean().clamp(min=1e-12)  # a cluster of few rows has no covariance of its own
        with torch.no_grad():
            self.logits.copy_((counts / counts.sum()).log())
            self.means.copy_(centres)
            self._start_spread(x - centres[labels], labels, counts, floor)
        return self

    def _start_spread(self, residual: Tensor, labels: Tensor, counts: Tensor, floor: Tensor) -> None:
        if not self._dense:
            variance = torch.zeros_like(self.means, dtype=residual.dtype).index_add_(0, labels, residual.square()) / counts[:, None] + floor
            self.log_scale.copy_(0.5 * (variance if self.covariance == "diagonal" else variance.mean(1, keepdim=True)).log())
            return
        scatter = torch.stack([rows.mT @ rows for rows in (residual[labels == k] for k in range(self.components))])
        covariance = scatter / counts[:, None, None] if self.covariance == "full" else scatter.sum(0, keepdim=True) / len(residual)
        self.factor.copy_(raw_factor(torch.linalg.cholesky(covariance + floor * torch.eye(self.features).to(floor))))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GaussianMixture]]:
        yield "plane", cls(2, 3)
        yield "line_spherical", cls(1, 2, covariance="spherical")
        yield "plane_diagonal", cls(2, 3, covariance="diagonal")
        yield "plane_tied", cls(2, 3, covariance="tied")
