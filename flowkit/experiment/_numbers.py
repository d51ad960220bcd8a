"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any


def rounded(value: Any, error: Any = None) -> str:
    """A number to the second digit of its error, or to four digits; a true minus sign."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "infinite"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    digits = _decimals(error) if error and math.isfinite(error) else max(0, 3 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:,.{min(digits, 12)}f}".replace("-", "−")


def error_of(error: Any) -> str:
    """A standard error to two digits, or nothing where there is none."""
    return f"{error:.{_decimals(error)}f}" if error and math.isfinite(error) else ""


def with_error(value: Any, error: Any) -> str:
    """``1.234 ± 0.012``."""
    shown, spread = rounded(value, error), error_of(error)
    return f"{shown} ± {spread}" if spread and shown != "infinite" else shown


def p_value(value: float) -> str:
    """``p = 0.31``, or ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}" if value < 0.1 else f"p = {value:.2f}"


def duration(seconds: float) -> str:
    """``1 min 23 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _decimals(error: float) -> int:
    return min(12, max(0, 1 - math.floor(math.log10(abs(error)))))
