"""Checks of the numbers that targets take."""

from __future__ import annotations

import math
import numbers
from typing import Any

from flowkit.core.errors import ConfigError


def finite_number(value: Any, who: str, name: str) -> float:
    """Check an argument that is a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"{who}: expected {name} to be a finite number; got {value!r}.")
    return float(value)


def at_least_zero(value: Any, who: str, name: str) -> float:
    """Check an argument that is a finite number >= 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ConfigError(f"{who}: expected {name} to be a finite number >= 0; got {value!r}.")
    return float(value)
