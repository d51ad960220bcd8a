"""What the ops of splines on an interval share: their ends, and the constants ``bins, low, high, ends`` of their kernels.

``linear`` ends are followed by the identity, ``bounded`` ones map the interval onto itself, at ``circular`` ones both knots are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ENDS = ("linear", "bounded", "circular")  # in the order of the enumeration in cpu/bins.h
MOST_BINS = 64  # as there
SCHEMA = "int bins, float low, float high, str ends, "


def knot_count(bins: int, ends: str) -> int:
    """How many raw numbers at knots there are: K - 1 inner ones, K where both ends are one, else (mixed kinds too) K + 1."""
    return {"linear": bins - 1, "circular": bins}.get(ends, bins + 1)


def at_knots(raw: Tensor, ends: str, linear_end: float) -> Tensor:
    """Raw numbers at all K + 1 knots: (*S, K + 1)."""
    if ends == "linear":
        return functional.pad(raw, (1, 1), value=linear_end)
    return torch.cat([raw, raw[..., :1]], dim=-1) if ends == "circular" else raw


def with_ends(inside: Callable[[Tensor], tuple[Tensor, Tensor]], value: Tensor, low: float, high: float, ends: str) -> tuple[Tensor, Tensor]:
    """A spline that knows only the interval, beyond it too: value (*S) -> out and log-slope, both (*S)."""
    # the argument is clamped before the formula, so nothing outside reaches a gradient
    out, log_slope = inside(value.clamp(low, high))
    if ends != "linear":
        return out, log_slope
    within = (value >= low) & (value <= high)
    return torch.where(within, out, value), torch.where(within, log_slope, torch.zeros_like(log_slope))


def encode(bins: int, low: float, high: float, ends: str) -> tuple[int | float, ...]:
    """The constants as the C++ kernels take them."""
    return bins, float(low), float(high), ENDS.index(ends)


def limits(bins: int, low: float, high: float, ends: str) -> str | None:
    """Why no kernel can take these constants, or None."""
    return None if bins <= MOST_BINS else f"{bins} bins are more than {MOST_BINS}"


def examples(count: Callable[..., int]) -> Callable[[int], Iterator[tuple[str, tuple[Any, ...]]]]:
    """Examples of an op, given (bins, low, high, ends) -> how many parameters an element has."""

    def made(rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
        generator = torch.Generator().manual_seed(0)
        for label, bins, low, high, ends in (("k8", 8, -3.0, 3.0, "linear"), ("k5_bounded", 5, 0.0, 1.0, "bounded"), ("k3_circular", 3, -2.0, 2.0, "circular")):
            share = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
            beyond = 0.3 * (high - low) if ends == "linear" else 0.0
            params = torch.randn(rows, 3, count(bins, low, high, ends), generator=generator, dtype=torch.float64)
            yield label, (low - beyond + (high - low + 2 * beyond) * share, params, bins, low, high, ends)

    return made
