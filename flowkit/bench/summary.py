"""What is made of the times: medians, quartiles, ratios, slopes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile, of observed values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.25 * last)], ordered[round(0.75 * last)]


def ratio(times: Sequence[float], over: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(time / other for time, other in zip(times, over, strict=True))


def best(rows: Sequence[Sequence[float]]) -> list[float]:
    """The shortest time of each round."""
    return [min(times) for times in zip(*rows, strict=True)]


def slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Log-log slope between neighbouring points."""
    return [math.log(y[i + 1] / y[i]) / math.log(x[i + 1] / x[i]) for i in range(len(x) - 1)]


def overall_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Log-log slope of the least-squares line through all points."""
    a, b = [math.log(value) for value in x], [math.log(value) for value in y]
    centre, level = statistics.fmean(a), statistics.fmean(b)
    return sum((u - centre) * (v - level) for u, v in zip(a, b, strict=True)) / sum((u - centre) ** 2 for u in a)
