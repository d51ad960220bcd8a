"""Monotone linear-rational splines."""

from __future__ import annotations

from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.linear_rational import inverse_spline, spline
from flowkit.kernels.rational_quadratic import UNIT_SLOPE
from flowkit.univariates._spline import SplineUnivariate


@UNIVARIATES.register("linear_rational_spline")
class LinearRationalSpline(SplineUnivariate):
    """Monotone linear-rational spline with K bins on an interval, each bin two Möbius maps joined where their slopes agree.

    Parameters per coordinate: K raw widths, K raw heights, K raw splits of the bins (softmax with floors of 1e-3, sigmoid with
    one of 0.025), then raw slopes (softplus with a floor of 1e-3): K - 1 inner ones with ``linear`` ends (the identity outside,
    slope 1 at the ends); K + 1 with ``bounded`` ends (the interval onto itself); K with ``circular`` ends (the slope at both
    ends is one number). Where kinds are mixed every coordinate takes K + 1. Both directions are closed and take no root.

    In a bin of mean slope s the slope at the split is near s^2 / d for end slopes d: it may be far from both.

    Args:
        bins: K, at least 2.
        bound: B for the interval [-B, B], or a pair (low, high).
        ends: one kind for all coordinates, or one per coordinate (the last axis of z).

    Reference: Dolatabadi et al. (2020), Invertible generative modeling using linear rational splines, arXiv:2001.05168.
    """

    per_bin = 3
    knot_start = linear_end = UNIT_SLOPE

    def _inside(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights, splits, slopes = self._split(params)
        return spline(z, widths, heights, splits, self._at_knots(slopes), self.left, self.right)

    def _inverse_inside(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        widths, heights, splits, slopes = self._split(params)
        return inverse_spline(x, widths, heights, splits, self._at_knots(slopes), self.left, self.right)
