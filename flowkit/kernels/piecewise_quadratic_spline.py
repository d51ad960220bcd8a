"""The piecewise-quadratic spline with its ends and the layout of its parameters, as an op: a reference and a fused kernel.

Parameters (*S, P): K raw widths, then raw heights at the knots: K - 1 inner ones for ``linear`` ends (slope 1 there, the identity
outside), K for ``circular`` ends (both are the first), K + 1 for ``bounded`` ones, of which any may be ``GIVEN``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.gpu import maps
from flowkit.kernels.piecewise_quadratic import GIVEN, inverse_spline, spline
from flowkit.kernels.scalar_map import scalar_ops
from flowkit.kernels.spline_ends import SCHEMA, at_knots, encode, examples, knot_count, limits, with_ends


def forward(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The spline: value (*S), params (*S, P) -> y and log dy/dx, both (*S); values beyond a closed end are taken as the end."""
    return _with_ends(spline, value, params, bins, low, high, ends)


def inverse(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: x and log dx/dy."""
    return _with_ends(inverse_spline, value, params, bins, low, high, ends)


def _with_ends(inside: Any, value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    widths, heights = params.split([bins, knot_count(bins, ends)], dim=-1)
    return with_ends(lambda held: inside(held, widths, at_knots(heights, ends, GIVEN), low, high), value, low, high, ends)


def _count(bins: int, low: float, high: float, ends: str) -> int:
    return bins + knot_count(bins, ends)


def _examples(rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Those of all splines; and bounded ends with slopes that are given, as a univariate with mixed ends calls the op."""
    for label, (value, params, bins, *rest) in examples(_count)(rows):
        yield label, (value, params, bins, *rest)
        if "bounded" in rest:
            params = params.clone()
            params[:, 0, (bins, -1)] = GIVEN  # both ends, and for the second element an inner knot
            params[:, 1, bins + 2] = GIVEN
            yield f"{label}_given", (value, params, bins, *rest)


piecewise_quadratic_spline, inverse_piecewise_quadratic_spline = scalar_ops(
    "piecewise_quadratic_spline",
    SCHEMA,
    (forward, inverse),
    cpu=CpuScalarMap("piecewise_quadratic_spline", encode),
    gpu=maps.PIECEWISE_QUADRATIC_SPLINE,
    count=_count,
    limits=limits,
    examples=_examples,
)
