"""Monotone rational-quadratic splines."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.tally import tally
from flowkit.kernels.op import Op
from flowkit.kernels.rational_quadratic import UNIT_SLOPE
from flowkit.kernels.rational_quadratic_spline import inverse_rational_quadratic_spline, rational_quadratic_spline
from flowkit.univariates._spline import SplineUnivariate


@UNIVARIATES.register("rational_quadratic_spline", "rqs")
class RationalQuadraticSpline(SplineUnivariate):
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

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform_event(z, params, 0)

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self.untransform_event(x, params, 0)

    def transform_event(self, z: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        return self._call(rational_quadratic_spline, z, params, event_dims, base)

    def untransform_event(self, x: Tensor, params: Tensor, event_dims: int, base: str = "none") -> tuple[Tensor, Tensor]:
        return self._call(inverse_rational_quadratic_spline, x, params, event_dims, base)

    def _call(self, op: Op, value: Tensor, params: Tensor, event_dims: int, base: str) -> tuple[Tensor, Tensor]:
        self._check(params)
        if self.kind != "mixed":
            return op(value, params, self.bins, self.left, self.right, self.kind, event_dims, base)
        widths, heights, slopes = self._split(params)
        whole = torch.cat([widths, heights, self._at_knots(slopes)], dim=-1)
        inside = op(value.clamp(self.left, self.right), whole, self.bins, self.left, self.right, "bounded", 0, "none")
        return tally(*self._outside(value, *inside), event_dims, base)
