"""Monotone piecewise-quadratic splines."""

from __future__ import annotations

from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.piecewise_quadratic import GIVEN
from flowkit.kernels.piecewise_quadratic_spline import inverse_piecewise_quadratic_spline, piecewise_quadratic_spline
from flowkit.univariates._spline import SplineOfOps


@UNIVARIATES.register("quadratic_spline")
class QuadraticSpline(SplineOfOps):
    """Monotone piecewise-quadratic spline with K bins on an interval: a continuous, piecewise-linear density.

    Parameters per coordinate: K raw widths, then raw heights of the slope at the knots (softmax with floors of 1e-3): K - 1
    inner ones with ``linear`` ends (the identity outside, slope 1 at the ends); K + 1 with ``bounded`` ends (the interval onto
    itself); K with ``circular`` ends (the slope at both ends is one number). Where kinds are mixed every coordinate takes
    K + 1. Both directions are closed.

    Args:
        bins: K, at least 3 (with 2 bins and linear ends only the identity is left).
        bound: B for the interval [-B, B], or a pair (low, high).
        ends: one kind for all coordinates, or one per coordinate (the last axis of z).

    Reference: Müller et al. (2019), Neural importance sampling, arXiv:1808.03856, section 4.2.
    """

    per_bin = 1
    sized = 1
    fewest_bins = 3
    linear_end = GIVEN
    ops = (piecewise_quadratic_spline, inverse_piecewise_quadratic_spline)
