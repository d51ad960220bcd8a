"""The piecewise-linear spline on the device (``kernels/piecewise_linear.py``): K bins of equal width W, each with its own height H.

SHAPE is (bins, low, high, ends). With cotangents g of y = Y + H t and k of log(H / W): x receives g H / W, Y receives g and H
receives g t + k / H. For x = X + W t with t = (y - Y) / H, of which k belongs to -log(H / W): y receives e = g W / H, Y receives -e
and H receives -e t - k / H.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.ends import joined, reached, received, returned
from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.numbers import FLOOR, bin_of, clamped, corner, from_shares, left_of, pick, section, shares, sums


@jit
def at(part: tl.tensor, number: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Which parameter stands there in the table."""
    return number


@jit
def place_of(parameter: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Where in the table the cotangent of a parameter stands."""
    return parameter


@jit
def _find(value: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Each value's bin: its number, x, y, h, how far in it the value lies, and the shares of all bins."""
    WIDTH: tl.constexpr = (SHAPE[2] - SHAPE[1]) / SHAPE[0]
    number = tl.arange(0, NUMBERS)[:, None]
    tall = shares(section(table, 0), SHAPE[0])
    size = tall * ((SHAPE[2] - SHAPE[1]) * (1.0 - FLOOR * SHAPE[0])) + (SHAPE[2] - SHAPE[1]) * FLOOR
    before, short = sums(size, SHAPE[1], SHAPE[2], SHAPE[0])
    if INVERSE:
        bin = bin_of(value, left_of(before, short[None, :], SHAPE[1], SHAPE[2]), SHAPE[0])
    else:
        bin = bin_of(value, number.to(value.dtype) * WIDTH + SHAPE[1], SHAPE[0])
    here = number == bin[None, :]
    y, distance = corner(value, here, before, short, SHAPE[1], SHAPE[2])
    h = pick(here, size)
    h += h * short
    x = bin.to(tl.float64) * WIDTH + SHAPE[1]
    if not INVERSE:
        distance = (value.to(tl.float64) - x).to(value.dtype)
    x = x.to(value.dtype)
    t = clamped(distance / h if INVERSE else distance / WIDTH, 0.0, 1.0)
    return bin, x, y, h, t, tall


@jit
def forward(given: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Value and log-slope."""
    WIDTH: tl.constexpr = (SHAPE[2] - SHAPE[1]) / SHAPE[0]
    _, x, y, h, t, _ = _find(clamped(given, SHAPE[1], SHAPE[2]), table, SHAPE, INVERSE, NUMBERS)
    steep = tl.log(h / WIDTH)
    made = x + t * WIDTH if INVERSE else y + t * h
    return joined(given, made, -steep if INVERSE else steep, SHAPE)


@jit
def backward(
    grad_out: tl.tensor,
    grad_slope: tl.tensor,
    given: tl.tensor,
    table: tl.tensor,
    SHAPE: tl.constexpr,
    INVERSE: tl.constexpr,
    NORMAL: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> Any:
    """Cotangents of the value and of the table."""
    WIDTH: tl.constexpr = (SHAPE[2] - SHAPE[1]) / SHAPE[0]
    STRETCH: tl.constexpr = (SHAPE[2] - SHAPE[1]) * (1.0 - FLOOR * SHAPE[0])
    value = reached(given, SHAPE)
    bin, x, y, h, t, tall = _find(value, table, SHAPE, INVERSE, NUMBERS)
    made = x + t * WIDTH if INVERSE else y + t * h
    g, k, grad_beyond = received(grad_out, grad_slope, given, made, NORMAL, SHAPE)
    if INVERSE:
        to_value = g * (WIDTH / h)
        g = -to_value
        k = -k
    else:
        to_value = g * (h / WIDTH)
    to_table = from_shares(tall, g, g * t + k / h, bin, STRETCH)
    return returned(to_value, grad_beyond, given, SHAPE), to_table[None, :, :]
