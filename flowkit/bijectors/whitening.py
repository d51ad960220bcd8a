"""Decorrelation measured on data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, DataError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, constant_log_det, positive
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.value_cache import ValueCache


@BIJECTORS.register("whitening")
class Whitening(Bijector):
    """x = loc + W z with W fixed from data so that z has mean 0 and covariance I; the identity until then.

    W = U diag(sqrt(lambda)), the principal components of the data's covariance U diag(lambda) U^T, largest first, so that z_1
    runs along the widest direction. Every dimension is kept: an eigenvalue below ``floor`` times the largest is raised to that,
    and its coordinate of z then varies less than 1. ``set_from`` takes the whole data; otherwise ``initialize`` (which ``fit``
    calls) takes the first batch, in whichever direction it passes, and the result is white. The flag is a buffer, so a loaded map
    is never fitted again; nothing is learned. Cost O(D^2) an event both ways.

    Args:
        features: D.
        floor: smallest eigenvalue of the covariance, as a part of the largest; in float32 not below 1e-10, say.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Whitening
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[3.0, 1.0], [0.0, 0.1]]) + 5.0
        >>> whitening = Whitening(2)
        >>> whitening.set_from(x)
        >>> z, _ = whitening.inverse(x)
        >>> [[round(abs(float(entry)), 4) for entry in row] for row in torch.cov(z.mT, correction=0)]
        [[1.0, 0.0], [0.0, 1.0]]
    """

    traits = Traits(jacobian="constant", score="closed")
    loc: Tensor
    matrix: Tensor
    fitted: Tensor

    def __init__(self, features: int, *, floor: float = 1e-6) -> None:
        super().__init__()
        features = positive(features, "Whitening", "features")
        self.features, self.floor = features, floor
        self.in_shape = self.out_shape = (features,)
        if not 0 < floor < 1:
            raise ConfigError(f"Whitening: expected 0 < floor < 1; got {floor!r}.")
        self.register_buffer("loc", torch.zeros(features))
        self.register_buffer("matrix", torch.eye(features))
        self.register_buffer("fitted", torch.tensor(False))
        self._cache = ValueCache()

    @torch.no_grad()
    def set_from(self, data: Tensor | Iterable[Tensor]) -> None:
        """Set loc and W from data, accumulated in float64.

        Args:
            data: (N, D), or chunks of it.

        Raises:
            DataError: no rows, values that are not finite, or data that do not vary.
        """
        mean, vectors, scale = self._components(data)
        self._set(mean, vectors * scale)

    def _components(self, data: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, principal directions as columns, and the standard deviations along them, in float64."""
        mean, covariance = self._moments([data] if isinstance(data, Tensor) else data)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0), vectors.flip(1)
        if not bool(values[0] > 1e-24 * mean.square().max()):
            raise DataError("Whitening: the data do not vary. Give more rows, or drop this map.")
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        vectors = vectors * largest.sign()  # an eigenvector's sign is free; this choice is the same on every machine
        return mean, vectors, values.clamp(min=float(self.floor * values[0])).sqrt()

    def _moments(self, chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        count = 0
        mean = torch.zeros_like(self.loc, dtype=torch.float64)
        scatter = torch.zeros_like(self.matrix, dtype=torch.float64)
        for chunk in chunks:
            values = chunk.reshape(-1, self.features).to(torch.float64)
            if not len(values):
                continue
            centre = values.mean(0)
            away, share = values - centre, len(values) / (count + len(values))
            scatter += away.mT @ away + torch.outer(centre - mean, centre - mean) * count * share
            mean += (centre - mean) * share
            count += len(values)
        if count == 0:
            raise DataError("Whitening: expected at least one row of data; got none.")
        if not bool(torch.isfinite(scatter).all()):
            column = int((~torch.isfinite(scatter.diagonal())).nonzero()[0, 0])
            raise DataError(f"Whitening: column {column} of the data is not finite. Drop it, or clean the data.")
        return mean, scatter / count

    def _set(self, loc: Tensor, matrix: Tensor) -> None:
        self.loc.copy_(loc)
        self.matrix.copy_(matrix)
        self.fitted.fill_(True)

    @torch.no_grad()
    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        if not bool(self.fitted):
            mean, vectors, scale = self._components(value)
            if inverse:
                self._set(mean, vectors * scale)
            else:  # the batch is z here, and what leaves must be white
                unmix = (vectors / scale).mT
                self._set(-unmix @ mean, unmix)
        return self._call(value, context, generator, inverse=inverse)[0]

    def _derived(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W, its inverse and log|det W| in float32 at least; derived from W as stored, so that both directions agree to rounding."""
        matrix = self.matrix.to(torch.promote_types(value.dtype, torch.float32))
        inverse, log_det = self._cache.get(_invert, matrix)
        return matrix, inverse, log_det

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        matrix, _, log_det = self._derived(z)
        return (z.to(matrix.dtype) @ matrix.mT).to(z.dtype) + self.loc, constant_log_det(log_det, z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        matrix, inverse, log_det = self._derived(x)
        return ((x - self.loc).to(matrix.dtype) @ inverse.mT).to(x.dtype), constant_log_det(-log_det, x, self.in_shape)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        matrix, back, _ = self._derived(value)
        carried = (score.to(matrix.dtype) @ (matrix if inverse else back)).to(score.dtype)
        return *self._formula(value, context, generator, inverse), carried

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Whitening]]:
        fitted = cls(2)
        fitted.set_from(torch.tensor([[0.0, 1.0], [2.0, 5.0], [1.0, -2.0], [0.5, 0.0]]))
        yield "fitted", fitted
        yield "fresh", cls(3)


def _invert(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.inv_ex(matrix)[0], torch.linalg.slogdet(matrix).logabsdet
