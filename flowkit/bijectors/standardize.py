"""Standardisation measured on the training data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, DataError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, constant_log_det, sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector


@BIJECTORS.register("standardize")
class Standardize(Bijector):
    """x = z * scale + loc with constants set once from data; the identity until then.

    Its state is two buffers and a flag; nothing is learned. It shares no pass with its neighbours in a chain: their affine step takes
    the logarithm of a scale, whose rounding costs more of the accuracy the further the scale is from 1.

    Args:
        shape: event shape, all sizes known.
    """

    traits = Traits(jacobian="diagonal", score="closed")
    loc: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        self.in_shape = self.out_shape = as_shape(shape, "Standardize")
        if None in self.in_shape:
            raise ConfigError(f"Standardize: expected a shape of known sizes; got {shape!r}.")
        sizes = tuple(size or 1 for size in self.in_shape)
        self.register_buffer("loc", torch.zeros(sizes))
        self.register_buffer("scale", torch.ones(sizes))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def set_from(self, data: Tensor | Iterable[Tensor]) -> None:
        """Set loc and scale to the mean and standard deviation of the data, accumulated in float64.

        Args:
            data: (N, *event), or chunks of it.

        Raises:
            DataError: no rows, or a coordinate that is constant or not finite; the message names the first one.
        """
        count, mean, spread = 0, torch.zeros_like(self.loc, dtype=torch.float64), torch.zeros_like(self.loc, dtype=torch.float64)
        for chunk in [data] if isinstance(data, Tensor) else data:
            values = chunk.to(torch.float64)
            rows, centre = len(values), values.mean(0)
            share = rows / (count + rows)
            spread += (values - centre).square().sum(0) + (centre - mean).square() * count * share
            mean += (centre - mean) * share
            count += rows
        if count == 0:
            raise DataError("Standardize: expected at least one row of data; got none.")
        scale = (spread / count).sqrt()
        flat, centre = scale.flatten(), mean.flatten()
        bad = (~torch.isfinite(flat) | (flat <= 1e-12 * centre.abs())).nonzero().flatten()
        if len(bad):
            column = int(bad[0])
            fault = "is constant" if bool(torch.isfinite(flat[column])) else "is not finite"
            raise DataError(f"Standardize: column {column} of the data {fault}. Drop it, or pass standardize=False.")
        self.loc.copy_(mean)
        self.scale.copy_(scale)
        self.fitted.fill_(True)

    def _log_det(self, value: Tensor, sign: int) -> Tensor:
        return constant_log_det(sign * sum_event(self.scale.log(), len(self.in_shape)), value, self.in_shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z * self.scale + self.loc, self._log_det(z, 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return (x - self.loc) / self.scale, self._log_det(x, -1)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return *self._formula(value, context, generator, inverse), score * self.scale if inverse else score / self.scale

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Standardize]]:
        fitted = cls((2,))
        fitted.set_from(torch.tensor([[0.0, 1.0], [2.0, 5.0], [1.0, -2.0]]))
        yield "fitted", fitted
        yield "fresh", cls((3,))
