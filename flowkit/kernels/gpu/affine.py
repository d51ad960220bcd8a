"""The affine map x = z exp(a) + b on the device, its inverse, and the backward of both; parameters b, raw.

SHAPE is (bound,): a = bound tanh(raw / bound), or raw itself where the bound is 0. With cotangents g of x and h of a: z receives
g exp(a), b receives g and a receives g z exp(a) + h. For z = (x - b) exp(-a), of which h belongs to -a: x receives g exp(-a),
b its negative, a its product with b - x, less h.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.numbers import exp, row_of, section, tanh


@jit
def at(part: tl.tensor, number: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Which parameter stands there in the table."""
    return part


@jit
def place_of(parameter: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Where in the table the cotangent of a parameter stands."""
    return parameter * NUMBERS


@jit
def _log_scale(raw: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """a and da/draw."""
    if SHAPE[0] == 0.0:
        return raw, tl.zeros_like(raw) + 1.0
    bend = tanh(raw / SHAPE[0])
    return SHAPE[0] * bend, 1.0 - bend * bend


@jit
def forward(value: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Value and log-slope."""
    shift = row_of(section(table, 0), 0)
    log_scale, _ = _log_scale(row_of(section(table, 1), 0), SHAPE)
    if INVERSE:
        return (value - shift) * exp(-log_scale), -log_scale
    return value * exp(log_scale) + shift, log_scale


@jit
def backward(
    grad_out: tl.tensor,
    grad_slope: tl.tensor,
    value: tl.tensor,
    table: tl.tensor,
    SHAPE: tl.constexpr,
    INVERSE: tl.constexpr,
    NORMAL: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> Any:
    """Cotangents of the value and of the table."""
    shift = row_of(section(table, 0), 0)
    log_scale, bend = _log_scale(row_of(section(table, 1), 0), SHAPE)
    scale = exp(-log_scale if INVERSE else log_scale)
    if NORMAL:  # the base's log-density hangs on the output
        made = (value - shift) * scale if INVERSE else value * scale + shift
        grad_out = grad_out - made * grad_slope
    passed = grad_out * scale
    to_shift = -passed if INVERSE else grad_out
    to_log_scale = passed * (shift - value) - grad_slope if INVERSE else passed * value + grad_slope
    first = tl.arange(0, 2)[:, None, None] == 0
    return passed, tl.where(first, to_shift[None, None, :], (to_log_scale * bend)[None, None, :])
