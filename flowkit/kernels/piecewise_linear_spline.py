"""The piecewise-linear spline with its ends as an op: a reference and a fused kernel.

Parameters (*S, K): raw heights, whatever the ends.
"""

from __future__ import annotations

from torch import Tensor

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.gpu import maps
from flowkit.kernels.piecewise_linear import inverse_spline, spline
from flowkit.kernels.scalar_map import scalar_ops
from flowkit.kernels.spline_ends import SCHEMA, encode, examples, limits, with_ends


def forward(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The spline: value (*S), params (*S, K) -> y and log dy/dx, both (*S); values beyond a closed end are taken as the end."""
    return with_ends(lambda x: spline(x, params, low, high), value, low, high, ends)


def inverse(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: x and log dx/dy."""
    return with_ends(lambda y: inverse_spline(y, params, low, high), value, low, high, ends)


def _count(bins: int, low: float, high: float, ends: str) -> int:
    return bins


piecewise_linear_spline, inverse_piecewise_linear_spline = scalar_ops(
    "piecewise_linear_spline",
    SCHEMA,
    (forward, inverse),
    cpu=CpuScalarMap("piecewise_linear_spline", encode),
    gpu=maps.PIECEWISE_LINEAR_SPLINE,
    count=_count,
    limits=limits,
    examples=examples(_count),
)
