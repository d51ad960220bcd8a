"""Monotone rational-quadratic splines."""

from __future__ import annotations

from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.rational_quadratic import UNIT_SLOPE
from flowkit.kernels.rational_quadratic_spline import inverse_rational_quadratic_spline, rational_quadratic_spline
from flowkit.univariates._spline import SplineOfOps


@UNIVARIATES.register("rational_quadratic_spline", "rqs")
class RationalQuadraticSpline(SplineOfOps):
    """Monotone rational-quadratic spline with K bins on an interval.

    Parameters per coordinate: K raw widths, K raw heights, raw slopes (softmax and softplus with floors of 1e-3).
    Slopes: K - 1 inner ones with ``linear`` ends (the identity outside, slope 1 at the ends); K + 1 with ``bounded``
    ends (the interval onto itself); K with ``circular`` ends (the slope at both ends is one number). Where kinds are
    mixed every coordinate takes K + 1. Both directions are closed.

    Args:
        bins: K, at least 2.
        bound: B for the interval [-B, B], or a pair (low, high).
        ends: one kind for all coordinates, or one per coordinate (the last axis of z).

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, section 3; circular ends as in
    Rezende et al. (2020), arXiv:2002.02428, section 3.1.
    """

    per_bin = 2
    knot_start = linear_end = UNIT_SLOPE
    ops = (rational_quadratic_spline, inverse_rational_quadratic_spline)
