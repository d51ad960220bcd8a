"""The rational-quadratic spline with its ends and the layout of its parameters, as an op: a reference and a fused kernel.

Parameters (*S, P): K raw widths, K raw heights, then raw slopes: K - 1 inner ones for ``linear`` ends (slope 1 there, the identity
outside), K for ``circular`` ends (both are the first), K + 1 for ``bounded`` ones.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.gpu import maps
from flowkit.kernels.rational_quadratic import UNIT_SLOPE, inverse_spline, spline
from flowkit.kernels.scalar_map import scalar_ops
from flowkit.kernels.spline_ends import SCHEMA, at_knots, encode, examples, knot_count, limits, with_ends


def forward(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The spline: value (*S), params (*S, P) -> y and log dy/dx, both (*S); values beyond a closed end are taken as the end."""
    return _with_ends(spline, value, params, bins, low, high, ends)


def inverse(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: x and log dx/dy."""
    return _with_ends(inverse_spline, value, params, bins, low, high, ends)


def _with_ends(inside: Any, value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    widths, heights, slopes = params.split([bins, bins, knot_count(bins, ends)], dim=-1)
    return with_ends(lambda held: inside(held, widths, heights, at_knots(slopes, ends, UNIT_SLOPE), low, high), value, low, high, ends)


def _encode(bins: int, low: float, high: float, ends: str) -> tuple[int | float, ...]:
    return *encode(bins, low, high, ends), UNIT_SLOPE


def _count(bins: int, low: float, high: float, ends: str) -> int:
    return 2 * bins + knot_count(bins, ends)


rational_quadratic_spline, inverse_rational_quadratic_spline = scalar_ops(
    "rational_quadratic_spline",
    SCHEMA,
    (forward, inverse),
    cpu=CpuScalarMap("rational_quadratic_spline", _encode),
    gpu=maps.RATIONAL_QUADRATIC_SPLINE,
    count=_count,
    limits=limits,
    examples=examples(_count),
)
