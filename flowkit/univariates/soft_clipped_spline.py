"""Monotone rational-quadratic splines with softly clipped parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.bins import Axis, placed, shares
from flowkit.kernels.rational_quadratic import inverse_spline_through, spline_through
from flowkit.univariates._soft_clip import soft_clip
from flowkit.univariates._spline import SplineUnivariate

FADED = 9.0  # in units of the limit: beyond it the clip passes on less than 1 % of a gradient


@UNIVARIATES.register("soft_clipped_spline")
class SoftClippedSpline(SplineUnivariate):
    """Monotone rational-quadratic spline with K bins on [-B, B], the identity outside, in zuko's parametrisation.

    Parameters per coordinate: K raw widths, K raw heights, K - 1 raw inner slopes. With c(a, L) = a / (1 + |a| / L) and
    L = -log(slope): sizes are 2 B softmax(c(raw, L / 2)), so that no two bins differ by more than the factor 1 / slope, and inner
    slopes are exp(c(raw, L)), between ``slope`` and its inverse. The slope at both ends is 1. Both directions are closed.
    ``RationalQuadraticSpline`` has floors under the sizes instead.

    Args:
        bins: K, at least 2.
        bound: B.
        slope: smallest inner slope, in (0, 1).

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, section 3.
    """

    per_bin = 2

    def __init__(self, bins: int = 8, bound: float = 5.0, *, slope: float = 1e-3) -> None:
        super().__init__(bins, bound, ends="linear")
        if not 0 < slope < 1:
            raise ConfigError(f"SoftClippedSpline: expected 0 < slope < 1; got {slope}.")
        self.slope = slope
        self._limit = -math.log(slope)

    def _axes(self, params: Tensor) -> tuple[Axis, ...]:
        parts = (shares(soft_clip(raw, self._limit / 2)) for raw in self._split(params)[:2])
        return tuple(placed((self.right - self.left) * share, self.left) for share in parts)

    def _slopes(self, params: Tensor) -> Tensor:
        return torch.exp(functional.pad(soft_clip(self._split(params)[2], self._limit), (1, 1)))

    def _inside(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights = self._axes(params)
        return spline_through(z, widths, heights, self._slopes(params), self.left, self.right)

    def _inverse_inside(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights = self._axes(params)
        return inverse_spline_through(x, widths, heights, self._slopes(params), self.left, self.right)

    def saturated(self, params: Tensor) -> Tensor:
        """Where the clip of a size or a slope passes on next to nothing of its gradient."""
        *sizes, slopes = self._split(params)
        limits = [self._limit / 2, self._limit / 2, self._limit]
        return torch.stack([(raw.abs() > FADED * limit).any(-1) for raw, limit in zip([*sizes, slopes], limits, strict=True)]).any(0)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SoftClippedSpline]]:
        yield "k8", cls(8)
        yield "k4_steep", cls(4, 2.0, slope=1e-2)
