"""Functions of numbers on the device that Triton lacks, and the shares and knots of bins; all propagate NaN.

Tables are (NUMBERS, SLOTS): one column for each element, all of it in the registers of one thread.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.bins import MIN_WIDTH
from flowkit.kernels.gpu.language import constant, jit, tl

FLOOR = constant(MIN_WIDTH)  # least share of a bin, in x and in y, and least slope
LINEAR = constant(20.0)  # from here on softplus is the identity, as in torch


@jit
def log1p(z: tl.tensor) -> Any:
    """log(1 + z) for z in [0, 1]: log(w) z / (w - 1) with w = 1 + z rounded, of which the rounding cancels (Kahan)."""
    w = 1.0 + z
    return tl.where(w == 1.0, z, tl.log(w) * (z / tl.where(w == 1.0, 1.0, w - 1.0)))


@jit
def softplus(x: tl.tensor) -> Any:
    """log(1 + exp(x)) and its derivative."""
    small = tl.exp(tl.where(x > 0, -x, x))
    plus = tl.where(x > LINEAR, x, tl.where(x > 0, x, 0.0) + log1p(small))
    return plus, tl.where(x > LINEAR, 1.0, tl.where(x > 0, 1.0, small) / (1.0 + small))


@jit
def exp(x: tl.tensor) -> Any:
    """exp(x) = 2^n exp(f), |f| <= log(2) / 2: the GPU's own float32 exponential loses digits in proportion to |x|."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    x = clamped(x, -200.0, 200.0)  # beyond these it is 0 or infinite all the same
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    f = (x - n * 0.693145751953125) - n * 1.42860677e-6  # log(2) in two parts, the first with trailing zeros: its product is exact
    return tl.exp2(n) * tl.exp(f)


@jit
def tanh(x: tl.tensor) -> Any:
    """The hyperbolic tangent: near zero a quotient of polynomials (Lambert's continued fraction, cut after x^9)."""
    size = tl.where(x < 0, -x, x)
    z = x * x
    over = ((44.0 * z + 12870.0) * z + 810810.0) * z + 11486475.0
    under = (((45.0 * z + 13860.0) * z + 945945.0) * z + 16216200.0) * z + 34459425.0
    near = x - x * (z * (over / under))  # x is exact, so what is lost in the quotient hardly matters
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.where(size > LINEAR, LINEAR, size)) + 1.0)
    return tl.where(size > LINEAR, tl.where(x < 0, -1.0, 1.0), tl.where(size < 0.625, near, tl.where(x < 0, -far, far)))


@jit
def section(table: tl.tensor, NUMBER: tl.constexpr) -> Any:
    """One section of a table: (SECTIONS, NUMBERS, SLOTS) -> (NUMBERS, SLOTS)."""
    if table.shape[0] == 1:
        return tl.reshape(table, (table.shape[1], table.shape[2]))
    here = tl.arange(0, table.shape[0])[:, None, None] == NUMBER
    return tl.sum(tl.where(here, table, -0.0), 0)  # x + (-0) is x for every x, so this costs nothing


@jit
def row_of(table: tl.tensor, NUMBER: tl.constexpr) -> Any:
    """One number of a section: (NUMBERS, SLOTS) -> (SLOTS)."""
    return tl.sum(tl.where(tl.arange(0, table.shape[0])[:, None] == NUMBER, table, -0.0), 0)


@jit
def pick(here: tl.tensor, table: tl.tensor) -> Any:
    """The entry of each column where ``here`` is true, which is at most one; others, NaN too, do not matter."""
    return tl.sum(tl.where(here, table, 0.0), 0)


@jit
def shares(raw: tl.tensor, BINS: tl.constexpr) -> Any:
    """Softmax of each column's first BINS entries; zero below them."""
    number = tl.arange(0, raw.shape[0])[:, None]
    if raw.shape[0] != BINS:
        raw = tl.where(number < BINS, raw, float("-inf"))
    part = tl.exp(raw - tl.max(raw, 0)[None, :])
    return part * (1.0 / tl.sum(part, 0))[None, :]


@jit
def sums(size: tl.tensor, LOW: tl.constexpr, HIGH: tl.constexpr, BINS: tl.constexpr) -> Any:
    """Sums of the sizes of all bins before each, in 2^-30 (float64: 2^-60) parts of the interval; and the share by which all fall short.

    They run in integers, so no rounding errors add up and the order does not matter. What the sizes' common factor lost, in the
    softmax above all, shows in their total, and is given back by ``left_of`` and by 1 + that share.
    """
    if size.shape[0] != BINS:
        size = tl.where(tl.arange(0, size.shape[0])[:, None] < BINS, size, 0.0)
    if size.dtype == tl.float64:
        part = (size * (1152921504606846976.0 / (HIGH - LOW))).to(tl.int64)
        short = (1152921504606846976 - tl.sum(part, 0)).to(tl.float64) * (1.0 / 1152921504606846976.0)
    else:
        part = (size * (1073741824.0 / (HIGH - LOW))).to(tl.int32)
        short = (1073741824 - tl.sum(part, 0)).to(tl.float32) * (1.0 / 1073741824.0)
    return tl.cumsum(part, 0) - part, short


@jit
def left_of(before: tl.tensor, short: tl.tensor, LOW: tl.constexpr, HIGH: tl.constexpr) -> Any:
    """Left ends, from the sums of the sizes before them; of the dtype of ``short``."""
    if before.dtype == tl.int64:
        return before.to(short.dtype) * (short * ((HIGH - LOW) / 1152921504606846976.0) + (HIGH - LOW) / 1152921504606846976.0) + LOW
    return before.to(short.dtype) * (short * ((HIGH - LOW) / 1073741824.0) + (HIGH - LOW) / 1073741824.0) + LOW


@jit
def bin_of(value: tl.tensor, left: tl.tensor, BINS: tl.constexpr) -> Any:
    """The number of the bin that each value falls in; a value on a knot is in the bin after it."""
    number = tl.arange(0, left.shape[0])[:, None]
    return tl.sum(((value[None, :] >= left) & (number > 0) & (number < BINS)).to(tl.int32), 0)


@jit
def corner(value: tl.tensor, here: tl.tensor, before: tl.tensor, short: tl.tensor, LOW: tl.constexpr, HIGH: tl.constexpr) -> Any:
    """The left end of the bin that is ``here``, and the value's distance from it, of which float32 would keep few digits."""
    left = left_of(tl.sum(tl.where(here, before, 0), 0), short.to(tl.float64), LOW, HIGH)
    return left.to(value.dtype), (value.to(tl.float64) - left).to(value.dtype)


@jit
def from_shares(share: tl.tensor, to_left: tl.tensor, to_size: tl.tensor, bin: tl.tensor, stretch: tl.tensor) -> Any:
    """Cotangents of the raw numbers of all bins from those of the left end and the size of each element's bin."""
    number = tl.arange(0, share.shape[0])[:, None]
    below = number < bin[None, :]
    received = tl.where(below, (to_left * stretch)[None, :], tl.where(number == bin[None, :], (to_size * stretch)[None, :], 0.0))
    return share * (received - tl.sum(share * received, 0)[None, :])


@jit
def clamped(value: tl.tensor, LOW: tl.constexpr, HIGH: tl.constexpr) -> Any:
    """The value within [LOW, HIGH]; NaN stays NaN."""
    value = tl.where(value < LOW, LOW, value)
    return tl.where(value > HIGH, HIGH, value)
