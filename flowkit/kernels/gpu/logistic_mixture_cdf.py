"""The log-odds of a mixture of logistics on the device (``kernels/mixture_cdf.py``), its inverse, and the backward of both.

SHAPE is (components K, B). Sections of the table: raw weights, means, raw log-scales, and gain and shift. With t_k = (z - m_k) r_k,

    C = log sum w sigmoid(t),  S = log sum w sigmoid(-t),  x = e^g (C - S) + b,  log dx/dz = L = F - C - S + g,  F = log sum w sigmoid(t) sigmoid(-t) r

The root z of the inverse lies between the least and the largest of m_k + y / r_k, y = (x - b) e^-g: at the one all t_k are at most y, at
the other at least. Newton's method runs there, and gives way to halving where it does not halve its step. With cotangents g of z and h of
-L the root passes (g - h L_z) e^-L on to x; parameters receive minus that through x, and -h through L, at fixed z.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import constant, jit, tl
from flowkit.kernels.gpu.numbers import exp, log1p, row_of, section, tanh

MOST_STEPS = constant(160)


@jit
def at(part: tl.tensor, number: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Which parameter stands there in the table."""
    return tl.where((part < 3) & (number >= SHAPE[0]), -1, part * SHAPE[0] + number)


@jit
def place_of(parameter: tl.tensor, SHAPE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Where in the table the cotangent of a parameter stands."""
    last = parameter - 3 * SHAPE[0]
    return tl.where(last >= 0, 3 * NUMBERS + last, parameter // SHAPE[0] * NUMBERS + parameter % SHAPE[0])


@jit
def log_sigmoid(t: tl.tensor) -> Any:
    """log sigmoid(t)."""
    return tl.where(t > 0, 0.0, t) - log1p(tl.exp(tl.where(t > 0, -t, t)))


@jit
def sigmoid(t: tl.tensor) -> Any:
    """1 / (1 + exp(-t))."""
    small = tl.exp(tl.where(t > 0, -t, t))
    return tl.where(t > 0, 1.0, small) / (1.0 + small)


@jit
def log_sum(x: tl.tensor) -> Any:
    """log sum exp of each column."""
    most = tl.max(x, 0)
    return most + tl.log(tl.sum(tl.exp(x - most[None, :]), 0))


@jit
def coefficients(table: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """log w, m, log r and its bend, of shape (NUMBERS, SLOTS); g, its bend, and b."""
    raw = section(table, 0)
    if raw.shape[0] != SHAPE[0]:
        raw = tl.where(tl.arange(0, raw.shape[0])[:, None] < SHAPE[0], raw, float("-inf"))
    bent = tanh(section(table, 2) / SHAPE[1])
    gain = tanh(row_of(section(table, 3), 0) / SHAPE[1])
    shift = row_of(section(table, 3), 1)
    return raw - log_sum(raw)[None, :], section(table, 1), -SHAPE[1] * bent, bent * bent - 1.0, SHAPE[1] * gain, 1.0 - gain * gain, shift


@jit
def evaluate(z: tl.tensor, weight: tl.tensor, mean: tl.tensor, rate: tl.tensor) -> Any:
    """t, C, S and F - C - S; of what differs by little, differences are taken before they are summed."""
    t = (z[None, :] - mean) * exp(rate)
    above = log_sigmoid(t)
    below = log_sigmoid(-t)
    c = log_sum(weight + above)
    s = log_sum(weight + below)
    upper = (s < c)[None, :]
    least = tl.where(s < c, s, c)[None, :]
    steep = log_sum(weight + tl.where(upper, below, above) - least + (tl.where(upper, above, below) + rate))
    return t, c, s, steep - tl.where(s < c, c, s)


@jit
def solved(x: tl.tensor, weight: tl.tensor, mean: tl.tensor, rate: tl.tensor, gain: tl.tensor, shift: tl.tensor) -> Any:
    """The root z of x(z) = x; what is not finite stays."""
    eps = 1.1920928955078125e-07
    if x.dtype == tl.float64:
        eps = 2.220446049250313e-16
    scale = exp(gain)
    ends = mean + ((x - shift) / scale)[None, :] * exp(-rate)
    low = tl.min(tl.where(weight > float("-inf"), ends, float("inf")), 0)
    high = tl.max(tl.where(weight > float("-inf"), ends, float("-inf")), 0)
    z = 0.5 * low + 0.5 * high
    rounding = 4.0 * eps * tl.where(tl.abs(x) < 1.0, 1.0, tl.abs(x))
    low -= tl.abs(low) * (4.0 * eps)
    high += tl.abs(high) * (4.0 * eps)
    before = high - low
    open = tl.abs(x) < float("inf")
    z = tl.where(open, z, x)
    going = tl.max(open.to(tl.int32), 0)
    left = tl.zeros_like(open.to(tl.int32)) + MOST_STEPS
    while going > 0:
        _, c, s, steep = evaluate(z, weight, mean, rate)
        excess = (c - s) * scale + shift - x
        low = tl.where(open & (excess < 0), z, low)
        high = tl.where(open & (excess > 0), z, high)
        size = excess * exp(-steep - gain)
        newton = z - size
        fine = (tl.abs(size) <= 0.5 * before) & (newton >= low) & (newton <= high)
        there = (tl.abs(size) <= tl.abs(z) * (2.0 * eps)) | (high - low <= tl.abs(z) * (2.0 * eps)) | (tl.abs(excess) <= rounding)
        after = tl.where(fine, newton, 0.5 * low + 0.5 * high)
        before = tl.where(open, tl.abs(after - z), before)
        z = tl.where(open & (fine | (there == 0)), after, z)
        left -= 1
        open = open & (there == 0) & (left > 0)
        going = tl.max(open.to(tl.int32), 0)
    return z


@jit
def forward(value: tl.tensor, table: tl.tensor, SHAPE: tl.constexpr, INVERSE: tl.constexpr, NUMBERS: tl.constexpr) -> Any:
    """Value and log-slope."""
    weight, mean, rate, _, gain, _, shift = coefficients(table, SHAPE)
    if INVERSE:
        z = solved(value, weight, mean, rate, gain, shift)
        _, _, _, steep = evaluate(z, weight, mean, rate)
        return z, -(steep + gain)
    _, c, s, steep = evaluate(value, weight, mean, rate)
    return (c - s) * exp(gain) + shift, steep + gain


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
    weight, mean, rate, rate_bend, gain, gain_bend, shift = coefficients(table, SHAPE)
    z = value
    if INVERSE:
        z = solved(value, weight, mean, rate, gain, shift)
    t, c, s, steep = evaluate(z, weight, mean, rate)
    scale = exp(gain)
    above = sigmoid(t)
    below = sigmoid(-t)
    r = exp(rate)
    a = tl.exp(weight + log_sigmoid(t) - c[None, :])
    b = tl.exp(weight + log_sigmoid(-t) - s[None, :])
    f = tl.exp(weight + log_sigmoid(t) + log_sigmoid(-t) + rate - (steep + c + s)[None, :])
    to_c_t = a * below
    to_s_t = -b * above
    to_f_t = f * (below - above)
    if NORMAL:  # the base's log-density hangs on the output
        made = z if INVERSE else (c - s) * scale + shift
        grad_out = grad_out - made * grad_slope
    if INVERSE:
        bend = tl.sum((to_f_t - to_c_t - to_s_t) * r, 0)
        passed = (grad_out - grad_slope * bend) * exp(-steep - gain)
        grad_out = -passed
        grad_slope = -grad_slope
    odds = grad_out * scale
    to_c = (odds - grad_slope)[None, :]
    to_s = (-odds - grad_slope)[None, :]
    to_f = grad_slope[None, :]
    to_weight = to_c * a + to_s * b + to_f * f
    to_t = to_c * to_c_t + to_s * to_s_t + to_f * to_f_t
    to_raw = to_weight - tl.exp(weight) * tl.sum(to_weight, 0)[None, :]
    to_gain = (odds * (c - s) + grad_slope) * gain_bend
    to_rate = (to_f * f + to_t * t) * rate_bend
    number = tl.arange(0, NUMBERS)[:, None]
    last = tl.where(number == 0, to_gain[None, :], grad_out[None, :])
    part = tl.arange(0, 4)[:, None, None]
    table = tl.where(part == 0, to_raw[None, :, :], tl.where(part == 1, (-to_t * r)[None, :, :], tl.where(part == 2, to_rate[None, :, :], last[None, :, :])))
    return passed if INVERSE else tl.sum(to_t * r, 0), table
