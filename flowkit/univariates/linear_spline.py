"""Monotone piecewise-linear splines."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.kernels.bins import MIN_HEIGHT, Axis, knots, placed
from flowkit.kernels.piecewise_linear_spline import inverse_piecewise_linear_spline, piecewise_linear_spline
from flowkit.univariates._spline import SplineOfOps


@UNIVARIATES.register("linear_spline")
class LinearSpline(SplineOfOps):
    """Monotone piecewise-linear spline: K bins of equal width on an interval, a density of K steps.

    Parameters per coordinate: K raw heights (softmax with a floor of 1e-3), whatever the ends. The interval goes onto itself
    with ``linear`` ends (the identity outside), ``bounded`` and ``circular`` ends alike: the slope jumps at every knot, so at
    the ends too there is nothing to match. Both directions are closed; gradients of the log-slope in z are zero.

    Args:
        bins: K, at least 2.
        bound: B for the interval [-B, B], or a pair (low, high).
        ends: one kind for all coordinates, or one per coordinate (the last axis of z).

    Reference: Müller et al. (2019), Neural importance sampling, arXiv:1808.03856, section 4.1.
    """

    per_bin = 1
    ops = (piecewise_linear_spline, inverse_piecewise_linear_spline)

    def _knot_parameters(self, kind: str) -> int:
        return 0

    def _axes(self, params: Tensor) -> tuple[Axis, ...]:
        width = (self.right - self.left) / self.bins
        return placed(torch.full_like(params, width), self.left), knots(params, self.left, self.right, MIN_HEIGHT)

    def _as_bounded(self, params: Tensor) -> Tensor:
        return params
