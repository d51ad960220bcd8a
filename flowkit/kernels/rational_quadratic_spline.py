"""The rational-quadratic spline with its ends and the layout of its parameters, as an op: a reference and a fused kernel.

Parameters (*S, P): K raw widths, K raw heights, then raw slopes: K - 1 inner ones for ``linear`` ends (slope 1 there, the identity
outside), K for ``circular`` ends (both are the first), K + 1 for ``bounded`` ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.rational_quadratic import UNIT_SLOPE, inverse_spline, spline
from flowkit.kernels.scalar_map import scalar_ops

ENDS = ("linear", "bounded", "circular")  # in the order of the enumeration in rational_quadratic_spline.cpp
MOST_BINS = 64  # as there


def slope_count(bins: int, ends: str) -> int:
    """How many raw slopes there are."""
    return {"linear": bins - 1, "circular": bins}.get(ends, bins + 1)


def forward(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The spline: value (*S), params (*S, P) -> y and log dy/dx, both (*S); values beyond a closed end are taken as the end."""
    return _with_ends(spline, value, params, bins, low, high, ends)


def inverse(value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: x and log dx/dy."""
    return _with_ends(inverse_spline, value, params, bins, low, high, ends)


def _with_ends(inside: Any, value: Tensor, params: Tensor, bins: int, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    widths, heights, slopes = params.split([bins, bins, slope_count(bins, ends)], dim=-1)
    if ends == "linear":
        slopes = functional.pad(slopes, (1, 1), value=UNIT_SLOPE)
    elif ends == "circular":
        slopes = torch.cat([slopes, slopes[..., :1]], dim=-1)
    # the argument is clamped before the formula, so nothing outside reaches a gradient
    out, log_slope = inside(value.clamp(low, high), widths, heights, slopes, low, high)
    if ends != "linear":
        return out, log_slope
    within = (value >= low) & (value <= high)
    return torch.where(within, out, value), torch.where(within, log_slope, torch.zeros_like(log_slope))


def _encode(bins: int, low: float, high: float, ends: str) -> tuple[int | float, ...]:
    return bins, float(low), float(high), ENDS.index(ends), UNIT_SLOPE


def _limits(bins: int, low: float, high: float, ends: str) -> str | None:
    return None if bins <= MOST_BINS else f"{bins} bins are more than {MOST_BINS}"


def _examples(rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(0)
    for label, bins, low, high, ends in (("k8", 8, -3.0, 3.0, "linear"), ("k5_bounded", 5, 0.0, 1.0, "bounded"), ("k3_circular", 3, -2.0, 2.0, "circular")):
        share = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
        beyond = 0.3 * (high - low) if ends == "linear" else 0.0
        params = torch.randn(rows, 3, 2 * bins + slope_count(bins, ends), generator=generator, dtype=torch.float64)
        yield label, (low - beyond + (high - low + 2 * beyond) * share, params, bins, low, high, ends)


rational_quadratic_spline, inverse_rational_quadratic_spline = scalar_ops(
    "rational_quadratic_spline",
    "int bins, float low, float high, str ends, ",
    (forward, inverse),
    cpu=CpuScalarMap("rational_quadratic_spline", _encode),
    count=lambda bins, low, high, ends: 2 * bins + slope_count(bins, ends),
    limits=_limits,
    examples=_examples,
)
