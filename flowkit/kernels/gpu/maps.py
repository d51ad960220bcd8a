"""The scalar maps that have kernels in Triton; constants and parameters are those of the ops of the same names."""

from __future__ import annotations

from flowkit.kernels.gpu.scalar_map import GpuScalarMap, Table
from flowkit.kernels.rational_quadratic import UNIT_SLOPE
from flowkit.kernels.spline_ends import knot_count


def _numbers(bins: int) -> int:
    return 1 << (bins - 1).bit_length()


def _rational_quadratic(bins: int, low: float, high: float, ends: str) -> Table:
    return Table(2 * bins + knot_count(bins, ends), 4, _numbers(bins), (bins, float(low), float(high), ends, UNIT_SLOPE))


def _quadratic(bins: int, low: float, high: float, ends: str) -> Table:
    return Table(bins + knot_count(bins, ends), 4, _numbers(bins), (bins, float(low), float(high), ends))


def _linear(bins: int, low: float, high: float, ends: str) -> Table:
    return Table(bins, 1, _numbers(bins), (bins, float(low), float(high), ends))


RATIONAL_QUADRATIC_SPLINE = GpuScalarMap("rational_quadratic_spline", _rational_quadratic)
PIECEWISE_QUADRATIC_SPLINE = GpuScalarMap("piecewise_quadratic_spline", _quadratic)
PIECEWISE_LINEAR_SPLINE = GpuScalarMap("piecewise_linear_spline", _linear)
BOUNDED_AFFINE = GpuScalarMap("affine", lambda bound: Table(2, 2, 1, (float(bound),)))
AFFINE = GpuScalarMap("affine", lambda: Table(2, 2, 1, (0.0,)))


def logistic_mixture_cdf(bound: float) -> GpuScalarMap:
    """With log-scales and log-gains within the bound."""
    return GpuScalarMap("logistic_mixture_cdf", lambda components: Table(3 * components + 2, 4, _numbers(max(components, 2)), (components, bound)))
