"""Comparisons that say what was expected, what was got, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def expect(condition: bool, message: str) -> None:
    """Fail with a message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def close(actual: Tensor, expected: Tensor, tolerance: float | Tensor, what: str) -> None:
    """Fail unless shapes agree and |actual - expected| <= tolerance everywhere; NaN never agrees."""
    expect(actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    actual, expected = actual.detach().to(torch.float64), expected.detach().to(torch.float64)
    error = (actual - expected).abs()
    allowed = torch.as_tensor(tolerance, dtype=torch.float64).detach().broadcast_to(error.shape)
    bad = ~((error <= allowed) | (actual == expected))
    if bool(bad.any()):
        at = tuple(int(i) for i in bad.nonzero()[int((error - allowed)[bad].nan_to_num(torch.inf).argmax())])
        got, want = float(actual[at]), float(expected[at])
        raise AssertionError(f"{what}: got {got:.9g}, expected {want:.9g}, off by {float(error[at]):.3g} > {float(allowed[at]):.3g} at index {at}")


def same_call(actual: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float, what: str) -> None:
    """``close`` for (value, log_det) pairs, relative to the size of each."""
    for part, got, want in zip(("value", "log_det"), actual, expected, strict=True):
        close(got, want, tolerance * scale_of(want), f"{what}, {part}")


def scale_of(value: Tensor) -> Tensor:
    """max(1, |value|), elementwise."""
    return value.detach().abs().clamp(min=1.0).nan_to_num(1.0, 1.0, 1.0)


def finite(value: Tensor, what: str) -> None:
    """Fail unless every number is finite."""
    bad = int((~torch.isfinite(value)).sum())
    expect(bad == 0, f"{what}: {bad} of {value.numel()} numbers are NaN or infinite")


def raises(error: type[Exception], call: Callable[[], Any], what: str) -> None:
    """Fail unless the call raises exactly that kind of error."""
    try:
        call()
    except error:
        return
    except Exception as other:
        raise AssertionError(f"{what}: expected {error.__name__}, got {type(other).__name__}: {other}") from other
    raise AssertionError(f"{what}: expected {error.__name__}, nothing was raised")
