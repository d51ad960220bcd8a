"""Monotone piecewise-cubic splines."""

from __future__ import annotations

import math

from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.bins import Axis
from flowkit.kernels.piecewise_cubic import MIN_END, Ends, bins, inverse_spline, spline
from flowkit.univariates._spline import SplineUnivariate


@UNIVARIATES.register("cubic_spline")
class CubicSpline(SplineUnivariate):
    """Monotone piecewise-cubic spline with K bins on an interval: inner slopes by Steffen's rule from the bins beside a knot.

    Parameters per coordinate: K raw widths and K raw heights (softmax with floors of 1e-3). With ``linear`` ends (the identity
    outside, slope 1 at the ends) the first and last bin rise by at least a third of their width, so that the rule stays monotone
    with that slope; with ``circular`` ends the rule goes around the circle; ``bounded`` ends take 2 more raw numbers, for the
    slopes at the ends (sigmoid, up to 3 times the bin's). Where kinds are mixed every coordinate takes 2 K + 2.

    The inverse is a fixed number of elementwise steps inside the bin found, exact to rounding; it costs about twice the forward
    direction.

    Args:
        bins: K, at least 2.
        bound: B for the interval [-B, B], or a pair (low, high).
        ends: one kind for all coordinates, or one per coordinate (the last axis of z).

    Reference: Durkan et al. (2019), Cubic-spline flows, arXiv:1906.02145, section 3.
    """

    per_bin = 2
    knot_start = math.log((1 / 3 - MIN_END) / (2 / 3))  # slope 1: the sigmoid's share of 3 is 1/3

    def _knot_parameters(self, kind: str) -> int:
        return 0 if kind in ("linear", "circular") else 2

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Ends]:
        widths, heights, raw = self._split(params)
        if self.kind == "mixed":
            return widths, heights, Ends(self.is_linear, ~(self.is_linear | self.is_circular), raw)
        free = self.kind == "bounded"
        return widths, heights, Ends(self.kind == "linear", free, raw if free else None)

    def _axes(self, params: Tensor) -> tuple[Axis, ...]:
        return bins(*self._parts(params), self.left, self.right)

    def _inside(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return spline(z, *self._parts(params), self.left, self.right)

    def _inverse_inside(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return inverse_spline(x, *self._parts(params), self.left, self.right)
