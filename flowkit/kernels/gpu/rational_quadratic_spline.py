"""The rational-quadratic spline on the device; formulas and names of ``kernels/cpu/rational_quadratic_spline.cpp``,
but for k, the cotangent of the log-slope.

SHAPE is (bins, low, high, ends, raw number of a unit slope). Sections of the table: raw widths, raw heights, the raw slopes at the right
end of every bin, and those at its left end. Cotangents stand in the order of the parameters: those of the slopes from the first that is
a parameter in the third section, where they fill it that of the last slope in the fourth.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.ends import joined, reached, received, returned
from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.numbers import FLOOR, bin_of, clamped, corner, from_shares, left_of, pick, section, shares, softplus, sums


@jit
def at(part: tl.tensor, number: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Which parameter stands there in the table."""
    knot = tl.where(part == 2, number + 1, number)
    if SHAPE[3] == "linear":
        knot = knot - 1
    elif SHAPE[3] == "circular":
        knot = tl.where(knot == SHAPE[0], 0, knot)
    return tl.where(part < 2, part * SHAPE[0] + number, 2 * SHAPE[0] + knot)


@jit
def place_of(parameter: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Where in the table the cotangent of a parameter stands."""
    if SHAPE[0] == NUMBERS:
        return parameter
    knot = parameter - 2 * SHAPE[0]
    knot = tl.where(knot == SHAPE[0], 3 * NUMBERS, 2 * NUMBERS + knot)
    return tl.where(parameter >= 2 * SHAPE[0], knot, parameter // SHAPE[0] * NUMBERS + parameter % SHAPE[0])


@jit
def find(value: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Each value's bin: its number, the value's distance from its left or lower end, x, w, y, h, the raw slopes at its ends, and the shares of all bins."""
    BINS: tl.constexpr = SHAPE[0]
    LOW: tl.constexpr = SHAPE[1]
    HIGH: tl.constexpr = SHAPE[2]
    number = tl.arange(0, NUMBERS)[:, None]
    wide = shares(section(table, 0), BINS)
    tall = shares(section(table, 1), BINS)
    size_x = wide * ((HIGH - LOW) * (1.0 - FLOOR * BINS)) + (HIGH - LOW) * FLOOR
    size_y = tall * ((HIGH - LOW) * (1.0 - FLOOR * BINS)) + (HIGH - LOW) * FLOOR
    before_x, short_x = sums(size_x, LOW, HIGH, BINS)
    before_y, short_y = sums(size_y, LOW, HIGH, BINS)
    bin = bin_of(value, left_of(before_y, short_y[None, :], LOW, HIGH) if INVERSE else left_of(before_x, short_x[None, :], LOW, HIGH), BINS)
    here = number == bin[None, :]
    x, from_x = corner(value, here, before_x, short_x, LOW, HIGH)
    y, from_y = corner(value, here, before_y, short_y, LOW, HIGH)
    w = pick(here, size_x)
    h = pick(here, size_y)
    raw0 = pick(here, section(table, 3))
    raw1 = pick(here, section(table, 2))
    if SHAPE[3] == "linear":
        raw0 = tl.where(bin == 0, SHAPE[4], raw0)
        raw1 = tl.where(bin == BINS - 1, SHAPE[4], raw1)
    return bin, from_y if INVERSE else from_x, x, w + w * short_x, y, h + h * short_y, raw0, raw1, wide, tall


@jit
def locate(distance: tl.tensor, w: tl.tensor, h: tl.tensor, s: tl.tensor, d0: tl.tensor, d1: tl.tensor, INVERSE: tl.constexpr) -> Any:
    """Where in its bin a value lies, t and 1 - t, from its distance from the left or lower end."""
    if not INVERSE:
        t = clamped(distance / w, 0.0, 1.0)
        return t, 1.0 - t
    r = clamped(distance / h, 0.0, 1.0)
    rest = 1.0 - r
    m = rest * d0 - r * d1
    rising = m >= 0
    far = tl.sqrt(m * m + 4.0 * s * s * r * rest) + tl.where(rising, m, -m)
    near = 2.0 * s * tl.where(rising, r, rest)
    whole = 1.0 / (far + near)
    return tl.where(rising, near, far) * whole, tl.where(rising, far, near) * whole


@jit
def forward(given: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Value and log-slope."""
    value = clamped(given, SHAPE[1], SHAPE[2])
    _, distance, x, w, y, h, raw0, raw1, _, _ = find(value, table, SHAPE, INVERSE, NUMBERS)
    s = h / w
    plus0, _ = softplus(raw0)
    plus1, _ = softplus(raw1)
    d0 = plus0 + FLOOR
    d1 = plus1 + FLOOR
    t, u = locate(distance, w, h, s, d0, d1, INVERSE)
    q = t * u
    shrink = 1.0 / (s * (t * t + u * u) + (d0 + d1) * q)
    ratio = s * shrink
    steep = tl.log(ratio * (ratio * (d1 * t * t + 2.0 * s * q + d0 * u * u)))  # the square of a steep end may be no number
    made = x + t * w if INVERSE else y + h * ((s * t * t + d0 * q) * shrink)
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
    value = reached(given, SHAPE)
    bin, distance, x, w, y, h, raw0, raw1, wide, tall = find(value, table, SHAPE, INVERSE, NUMBERS)
    s = h / w
    per_w = 1.0 / w
    plus0, bend0 = softplus(raw0)
    plus1, bend1 = softplus(raw1)
    d0 = plus0 + FLOOR
    d1 = plus1 + FLOOR
    t, u = locate(distance, w, h, s, d0, d1, INVERSE)
    q = t * u
    per_d = 1.0 / (s * (t * t + u * u) + (d0 + d1) * q)
    p = d1 * t * t + 2.0 * s * q + d0 * u * u
    per_p = 1.0 / p
    rise = (s * t * t + d0 * q) * per_d
    fall = (s * u * u + d1 * q) * per_d
    lt = (2.0 * (d1 * t - d0 * u) + 2.0 * s * (u - t)) * per_p - 2.0 * (d0 + d1 - 2.0 * s) * (u - t) * per_d
    made = x + t * w if INVERSE else y + h * rise
    g, k, grad_beyond = received(grad_out, grad_slope, given, made, NORMAL, SHAPE)
    if INVERSE:
        k = -k
        to_value = (g + k * lt * per_w) / (s * s * p * per_d * per_d)
        g = -to_value
    scaled = g * h * per_d
    c = d1 * t * t - d0 * u * u
    gt = scaled * s * p * per_d + k * lt
    if not INVERSE:
        to_value = gt * per_w
    hs = 2.0 * k * q * (per_p + (d0 + d1) * per_d / s)
    gs = scaled * q * c * per_d + hs
    lean = scaled * s * t * per_d * (d1 * t * t * (1.0 + u) + 2.0 * s * q + d0 * u * u * t)
    gx = -gt * per_w
    gw = -(lean + k * lt * t + hs * s) * per_w
    gh = g * rise + gs * per_w
    g0 = (scaled * q * fall + k * (u * u * per_p - 2.0 * q * per_d)) * bend0
    g1 = (k * (t * t * per_p - 2.0 * q * per_d) - scaled * q * rise) * bend1
    to_value = returned(to_value, grad_beyond, given, SHAPE)
    return to_value, _spread(bin, gx, gw, g, gh, g0, g1, wide, tall, SHAPE, NUMBERS)


@jit
def _spread(
    bin: tl.tensor,
    gx: tl.tensor,
    gw: tl.tensor,
    gy: tl.tensor,
    gh: tl.tensor,
    g0: tl.tensor,
    g1: tl.tensor,
    wide: tl.tensor,
    tall: tl.tensor,
    SHAPE: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> Any:
    """From the chosen bin to a table of all raw numbers."""
    STRETCH: tl.constexpr = (SHAPE[2] - SHAPE[1]) * (1.0 - FLOOR * SHAPE[0])
    number = tl.arange(0, NUMBERS)[:, None]
    knot = number + 1 if SHAPE[3] == "linear" else number
    bent = tl.where(knot == bin[None, :], g0[None, :], tl.where(knot - 1 == bin[None, :], g1[None, :], 0.0))
    last = tl.where(bin == SHAPE[0] - 1, g1, 0.0)
    if SHAPE[3] == "circular":
        bent += tl.where(number == 0, last[None, :], 0.0)
    to_wide = from_shares(wide, gx, gw, bin, STRETCH)
    to_tall = from_shares(tall, gy, gh, bin, STRETCH)
    part = tl.arange(0, 4)[:, None, None]
    rest = tl.where(part == 2, bent[None, :, :], last[None, None, :])
    return tl.where(part == 0, to_wide[None, :, :], tl.where(part == 1, to_tall[None, :, :], rest))
