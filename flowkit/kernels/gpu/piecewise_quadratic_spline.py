"""The piecewise-quadratic spline on the device; formulas and names of ``kernels/piecewise_quadratic.py``.

SHAPE is (bins, low, high, ends). Sections of the table: the raw widths, those of the bins before, and the raw heights at the right and
at the left end of every bin. Where a raw height is -inf the slope is given as 1: at linear ends, and wherever the caller says so.

In a bin with s = dy/dx = v u + v' t, b = v' - v, cotangents g of y and k of log s give
    of t     Gt = g W s + k b / s          of v     Gv = g W t (1 + u) / 2 + k u / s
    of v'    Gv' = g W t^2 / 2 + k t / s    of W     GW = -g t^2 b / 2 - k t b / (s W)         x: Gt / W    X: -Gt / W    Y: g
The inverse, with cotangents g of x and k of -log s: y receives e = (g - k b / (s W)) / s, the rest what the forward gives for (-e, -k).

From there to the raw numbers: y knots are sums of W_j (v_j + v_j+1) / 2, so with the height of its left end every bin before the
chosen one passes g W_j / 2 to the slopes at its ends and g (v_j + v_j+1) / 2 to its width. Let c_m be all that the slope at knot m
receives. With p = exp(a) / sum_j m_j exp(a_j), v = f + S p, S = (1 - f) E and A = sum_m c_m p_m over the knots that are not given
    a_m receives  S p_m (c_m - m_m A)        W_j receives  -S A (p_j + p_j+1) / 2, and for each end with a given slope  -(1 - f) A / 2.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.ends import joined, reached, received, returned
from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.numbers import FLOOR, bin_of, clamped, corner, left_of, pick, row_of, section, shares, sums


@jit
def at(part: tl.tensor, number: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Which parameter stands there in the table."""
    knot = tl.where(part == 2, number + 1, number)
    if SHAPE[3] == "linear":
        knot = knot - 1
    elif SHAPE[3] == "circular":
        knot = tl.where(knot == SHAPE[0], 0, knot)
    return tl.where(part < 2, number - part, SHAPE[0] + knot)


@jit
def place_of(parameter: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Where in the table the cotangent of a parameter stands: widths, slopes by the bin on their right, the last slope."""
    knot = parameter + (2 * NUMBERS - SHAPE[0] + (1 if SHAPE[3] == "linear" else 0))
    if SHAPE[0] != NUMBERS:
        knot = tl.where(knot == 2 * NUMBERS + SHAPE[0], 3 * NUMBERS, knot)
    return tl.where(parameter >= SHAPE[0], knot, parameter)


@jit
def _heights(table: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Raw heights at the right and left ends of all bins; -inf where the slope is given, and past the last bin."""
    number = tl.arange(0, NUMBERS)[:, None]
    right = tl.where(number < SHAPE[0], section(table, 2), float("-inf"))
    left = tl.where(number < SHAPE[0], section(table, 3), float("-inf"))
    if SHAPE[3] == "linear":
        right = tl.where(number == SHAPE[0] - 1, float("-inf"), right)
        left = tl.where(number == 0, float("-inf"), left)
    return right, left


@jit
def _axes(table: tl.tensor, right: tl.tensor, left: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Widths, and at the right and left ends of all bins the shares p of the slopes, 0 where a slope is given; and S."""
    LENGTH: tl.constexpr = SHAPE[2] - SHAPE[1]
    number = tl.arange(0, NUMBERS)[:, None]
    width = shares(section(table, 0), SHAPE[0]) * (LENGTH * (1.0 - FLOOR * SHAPE[0])) + LENGTH * FLOOR
    width = tl.where(number < SHAPE[0], width, 0.0)
    room = LENGTH - 0.5 * tl.sum(tl.where(right == float("-inf"), width, 0.0) + tl.where(left == float("-inf"), width, 0.0), 0)
    most = tl.maximum(tl.max(right, 0), tl.max(left, 0))[None, :]
    right = tl.exp(right - most)
    left = tl.exp(left - most)
    per = (1.0 / tl.sum(0.5 * width * (left + right), 0))[None, :]
    return width, right * per, left * per, room * (1.0 - FLOOR)


@jit
def _slopes(share: tl.tensor, raw: tl.tensor, stretch: tl.tensor) -> Any:
    """Slopes at one end of all bins."""
    return tl.where(raw == float("-inf"), 1.0, share * stretch[None, :] + FLOOR)


@jit
def _find(value: tl.tensor, width: tl.tensor, right: tl.tensor, left: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Each value's bin: its number, x, w, y and the slopes at its ends; and the place t of the value in it with the slope there."""
    size = 0.5 * width * (left + right)
    before_x, short_x = sums(width, SHAPE[1], SHAPE[2], SHAPE[0])
    before_y, short_y = sums(size, SHAPE[1], SHAPE[2], SHAPE[0])
    bin = bin_of(
        value, left_of(before_y, short_y[None, :], SHAPE[1], SHAPE[2]) if INVERSE else left_of(before_x, short_x[None, :], SHAPE[1], SHAPE[2]), SHAPE[0]
    )
    here = tl.arange(0, NUMBERS)[:, None] == bin[None, :]
    x, from_x = corner(value, here, before_x, short_x, SHAPE[1], SHAPE[2])
    y, from_y = corner(value, here, before_y, short_y, SHAPE[1], SHAPE[2])
    w = pick(here, width)
    w += w * short_x
    first = pick(here, left)
    last = pick(here, right)
    if INVERSE:
        h = pick(here, size)
        r = clamped(from_y / (h + h * short_y), 0.0, 1.0)
        slope = tl.sqrt((1.0 - r) * first * first + r * last * last)
        t = r * ((first + last) / (first + slope))
    else:
        t = clamped(from_x / w, 0.0, 1.0)
        slope = first * (1.0 - t) + last * t
    return bin, x, w, y, first, last, t, slope


@jit
def forward(given: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Value and log-slope."""
    raw_right, raw_left = _heights(table, SHAPE, NUMBERS)
    width, right, left, stretch = _axes(table, raw_right, raw_left, SHAPE, NUMBERS)
    right = _slopes(right, raw_right, stretch)
    left = _slopes(left, raw_left, stretch)
    _, x, w, y, first, last, t, slope = _find(clamped(given, SHAPE[1], SHAPE[2]), width, right, left, SHAPE, INVERSE, NUMBERS)
    steep = tl.log(slope)
    made = x + t * w if INVERSE else y + 0.5 * w * t * (first * (2.0 - t) + last * t)
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
    raw_right, raw_left = _heights(table, SHAPE, NUMBERS)
    width, p_right, p_left, stretch = _axes(table, raw_right, raw_left, SHAPE, NUMBERS)
    right = _slopes(p_right, raw_right, stretch)
    left = _slopes(p_left, raw_left, stretch)
    value = reached(given, SHAPE)
    bin, x, w, y, first, last, t, slope = _find(value, width, right, left, SHAPE, INVERSE, NUMBERS)
    made = x + t * w if INVERSE else y + 0.5 * w * t * (first * (2.0 - t) + last * t)
    g, k, grad_beyond = received(grad_out, grad_slope, given, made, NORMAL, SHAPE)
    lt = (last - first) / slope
    if INVERSE:
        k = -k
        to_value = (g + k * lt / w) / slope
        g = -to_value
    gt = g * w * slope + k * lt
    if not INVERSE:
        to_value = gt / w
    gw = -0.5 * g * t * t * (last - first) - k * lt * t / w
    g0 = 0.5 * g * w * t * (2.0 - t) + k * (1.0 - t) / slope
    g1 = 0.5 * g * w * t * t + k * t / slope
    to_table = _spread(bin, -gt / w, gw, g, g0, g1, table, width, right, left, p_right, p_left, stretch, SHAPE, NUMBERS)
    return returned(to_value, grad_beyond, given, SHAPE), to_table


@jit
def _spread(
    bin: tl.tensor,
    gx: tl.tensor,
    gw: tl.tensor,
    gy: tl.tensor,
    g0: tl.tensor,
    g1: tl.tensor,
    table: tl.tensor,
    width: tl.tensor,
    right: tl.tensor,
    left: tl.tensor,
    p_right: tl.tensor,
    p_left: tl.tensor,
    stretch: tl.tensor,
    SHAPE: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> Any:
    """From the chosen bin to a table of all raw numbers."""
    LENGTH: tl.constexpr = SHAPE[2] - SHAPE[1]
    number = tl.arange(0, NUMBERS)[:, None]
    below = number < bin[None, :]
    here = number == bin[None, :]
    half = 0.5 * gy[None, :]
    to_right = tl.where(below, half * width, tl.where(here, g1[None, :], 0.0))
    to_left = tl.where(below, half * width, tl.where(here, g0[None, :], 0.0))
    total = tl.sum(to_right * p_right + to_left * p_left, 0)
    drawn = (stretch * total)[None, :]
    to_width = tl.where(below, gx[None, :] + half * (left + right), tl.where(here, gw[None, :], 0.0)) - 0.5 * drawn * (p_left + p_right)
    raw_right, raw_left = _heights(table, SHAPE, NUMBERS)
    taken = total[None, :] * (0.5 * (1.0 - FLOOR))  # a slope that is given takes its m off S
    to_width -= tl.where(raw_right == float("-inf"), taken, 0.0) + tl.where(raw_left == float("-inf"), taken, 0.0)
    share = shares(section(table, 0), SHAPE[0])
    to_width *= LENGTH * (1.0 - FLOOR * SHAPE[0])
    to_width = share * (to_width - tl.sum(share * to_width, 0)[None, :])
    # a knot receives from the bins on both sides; of the bin before it the width is known from the second section
    raw = section(table, 0)
    most = tl.max(tl.where(number < SHAPE[0], raw, float("-inf")), 0)[None, :]
    whole = tl.sum(tl.where(number < SHAPE[0], tl.exp(raw - most), 0.0), 0)[None, :]
    before = tl.exp(section(table, 1) - most) / whole * (LENGTH * (1.0 - FLOOR * SHAPE[0])) + LENGTH * FLOOR
    before = tl.where(number == 0, 0.0, before)
    from_before = tl.where(number - 1 < bin[None, :], half * before, tl.where(number - 1 == bin[None, :], g1[None, :], 0.0))
    from_before = tl.where(number == 0, 0.0, from_before)
    scale = stretch[None, :]
    knot = scale * p_left * (to_left + from_before - 0.5 * total[None, :] * (width + before))
    last = row_of(scale * p_right * (to_right - 0.5 * total[None, :] * width), SHAPE[0] - 1)
    if SHAPE[3] == "circular":
        knot += tl.where(number == 0, last[None, :], 0.0)
    part = tl.arange(0, 4)[:, None, None]
    return tl.where(part == 0, to_width[None, :, :], tl.where(part == 2, knot[None, :, :], last[None, None, :]))
