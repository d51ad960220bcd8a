"""Whole solves of a two-layer velocity field on the device: one program takes a tile of samples from t0 to t1.

A method is a table of PADDED columns in memory: the rows of a, then b, e and c. The slopes of a step stand in registers as
(PADDED, samples, d padded), so that any combination of them is one sum. With RECORD the tape (rows, capacity, d + 2) takes t, h and the state
before each step (without t and h where they are everybody's), from which the backward starts. A sample does not depend on its neighbours.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.two_layers import velocity


@jit
def tile(start: tl.tensor, row: tl.tensor, live: tl.tensor, D: tl.constexpr, DP: tl.constexpr) -> Any:
    """Rows of (rows, D) in (M, DP), zeros where they are not live."""
    i = tl.arange(0, DP)
    return tl.load(start + row[:, None].to(tl.int64) * D + i[None, :], mask=live[:, None] & (i[None, :] < D), other=0.0)


@jit
def put(start: tl.tensor, row: tl.tensor, live: tl.tensor, value: tl.tensor, D: tl.constexpr, DP: tl.constexpr) -> None:
    """Write (M, DP) to live rows of (rows, D)."""
    i = tl.arange(0, DP)
    tl.store(start + row[:, None].to(tl.int64) * D + i[None, :], value, mask=live[:, None] & (i[None, :] < D))


@jit
def keep(tape: tl.tensor, place: tl.tensor, live: tl.tensor, y: tl.tensor, D: tl.constexpr, DP: tl.constexpr) -> None:
    """Write states (M, DP) to places (M) of the tape, behind t and h."""
    i = tl.arange(0, DP)
    tl.store(tape + place[:, None] * (D + 2) + 2 + i[None, :], y, mask=live[:, None] & (i[None, :] < D))


@jit
def combined(slopes: tl.tensor, weights: tl.tensor) -> Any:
    """sum_j w_j k_j: (S, M, D), (S) -> (M, D)."""
    return tl.sum(slopes * weights[:, None, None], 0)


@jit
def fixed_kernel(
    x: tl.tensor,
    net: tl.tuple,
    table: tl.tensor,
    x1: tl.tensor,
    log_det: tl.tensor,
    stats: tl.tensor,
    tape: tl.tensor,
    rows: tl.tensor,
    t0: tl.tensor,
    h: tl.tensor,
    steps: tl.tensor,
    capacity: tl.tensor,
    stages: tl.tensor,
    SHAPE: tl.constexpr,
    PADDED: tl.constexpr,
    RECORD: tl.constexpr,
    M: tl.constexpr,
) -> None:
    """``steps`` steps of h."""
    DP: tl.constexpr = SHAPE[1]
    row = tl.program_id(0) * M + tl.arange(0, M)
    wide = row.to(tl.int64)
    inside = row < rows
    number = tl.arange(0, PADDED)
    y = tile(x, row, inside, SHAPE[0], SHAPE[1])
    total = tl.zeros((M,), tl.float64)
    zero = tl.zeros((M,), tl.int32)
    for n in range(steps):
        if RECORD:
            keep(tape, wide * capacity + n, inside, y, SHAPE[0], SHAPE[1])
        slopes = tl.zeros((PADDED, M, DP), tl.float32)
        rates = tl.zeros((PADDED, M), tl.float32)
        for stage in range(stages):
            point = y + combined(slopes, tl.load(table + stage * PADDED + number)) * h
            t = tl.zeros((1,), tl.float32) + n
            t = t0 + (t + tl.load(table + (PADDED + 2) * PADDED + stage)) * h
            v, divergence = velocity(point, t, row, rows, net, SHAPE)
            slopes = tl.where((number == stage)[:, None, None], v[None, :, :], slopes)
            rates = tl.where((number == stage)[:, None], divergence[None, :], rates)
        b = tl.load(table + PADDED * PADDED + number)
        y = y + combined(slopes, b) * h
        total += (tl.sum(rates * b[:, None], 0) * h).to(tl.float64)
    finite = tl.sum(tl.abs(y), 1) + tl.abs(total.to(tl.float32)) < float("inf")
    put(x1, row, inside, tl.where(finite[:, None], y, float("nan")), SHAPE[0], SHAPE[1])
    tl.store(log_det + row, tl.where(finite, total.to(tl.float32), float("nan")), mask=inside)
    place = stats + row * 4
    tl.store(place, zero + steps * stages, mask=inside)
    tl.store(place + 1, zero + steps, mask=inside)
    tl.store(place + 2, zero, mask=inside)
    tl.store(place + 3, tl.where(finite, 0, 3), mask=inside)


@jit
def norm(value: tl.tensor, rate: tl.tensor, size: tl.tensor, total: tl.tensor, rtol: tl.tensor, atol: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """RMS of (value, rate) / (atol + rtol (size, total)) over features, and log_det where there is a divergence: (M)."""
    scaled = tl.where((tl.arange(0, SHAPE[1]) < SHAPE[0])[None, :], value / (size * rtol + atol), 0.0)
    squares = tl.sum(scaled * scaled, 1)
    if SHAPE[7]:
        more = rate / (total * rtol + atol)
        return tl.sqrt((squares + more * more) * (1.0 / (SHAPE[0] + 1)))
    return tl.sqrt(squares * (1.0 / SHAPE[0]))


@jit
def larger(x: tl.tensor, y: tl.tensor) -> Any:
    """The larger of two magnitudes; NaN stays NaN."""
    x = tl.abs(x)
    y = tl.abs(y)
    return tl.where(y <= x, x, y)


@jit
def power(x: tl.tensor, exponent: tl.tensor) -> Any:
    """x^exponent for x > 0."""
    return tl.exp2(tl.log2(x) * exponent)


@jit
def first_size(
    y: tl.tensor, k: tl.tensor, rate: tl.tensor, row: tl.tensor, rows: tl.tensor, net: tl.tuple, t0: tl.tensor, span: tl.tensor, rtol: tl.tensor,
    atol: tl.tensor, order: tl.tensor, SHAPE: tl.constexpr,
) -> Any:  # fmt: skip
    """The first step's size by Hairer's rule, at most |span|: (M)."""
    zero = tl.zeros_like(rate)
    size = tl.abs(y)
    d0 = norm(y, zero, size, zero, rtol, atol, SHAPE)
    d1 = norm(k, rate, size, zero, rtol, atol, SHAPE)
    most = tl.abs(span)
    h0 = tl.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
    h0 = tl.where(h0 > most, most, h0)
    signed = tl.where(span < 0, -h0, h0)
    bent, other = velocity(y + signed[:, None] * k, t0 + signed, row, rows, net, SHAPE)
    steepest = larger(d1, norm(bent - k, other - rate, size, zero, rtol, atol, SHAPE) / h0)
    h1 = tl.where(steepest <= 1e-15, tl.where(h0 * 1000.0 < 1.0, 1e-6, h0 / 1000.0), power(0.01 / steepest, 1.0 / order))
    h1 = tl.where((h1 == h1) & (h1 < float("inf")), h1, h0)
    h = tl.where(100.0 * h0 < h1, 100.0 * h0, h1)
    return tl.where(h > most, most, h)


@jit
def adaptive_kernel(
    x: tl.tensor,
    net: tl.tuple,
    table: tl.tensor,
    x1: tl.tensor,
    log_det: tl.tensor,
    stats: tl.tensor,
    tape: tl.tensor,
    rows: tl.tensor,
    t0: tl.tensor,
    t1: tl.tensor,
    rtol: tl.tensor,
    atol: tl.tensor,
    order: tl.tensor,
    max_steps: tl.tensor,
    capacity: tl.tensor,
    stages: tl.tensor,
    SHAPE: tl.constexpr,
    PADDED: tl.constexpr,
    RECORD: tl.constexpr,
    M: tl.constexpr,
) -> None:
    """From t0 to t1, each sample with steps of its own."""
    DP: tl.constexpr = SHAPE[1]
    row = tl.program_id(0) * M + tl.arange(0, M)
    wide = row.to(tl.int64)
    inside = row < rows
    number = tl.arange(0, PADDED)
    y = tile(x, row, inside, SHAPE[0], SHAPE[1])
    t = tl.zeros((M,), tl.float32) + t0
    total = tl.zeros((M,), tl.float64)
    k, rate = velocity(y, t, row, rows, net, SHAPE)
    size = first_size(y, k, rate, row, rows, net, t, t1 - t, rtol, atol, order, SHAPE)
    accepted = tl.zeros((M,), tl.int32)
    tried = tl.zeros((M,), tl.int32)
    rejected = tl.zeros((M,), tl.int1)
    finite = tl.sum(tl.abs(k), 1) + tl.abs(rate) < float("inf")
    status = tl.where(finite, 0, 3)
    live = inside & finite
    b = tl.load(table + PADDED * PADDED + number)
    e = tl.load(table + (PADDED + 1) * PADDED + number)
    least = 1.1920928955078125e-06 * tl.max(larger(t, tl.zeros_like(t) + t1), 0)  # ten roundings of the time
    going = tl.max(live.to(tl.int32), 0)
    while going > 0:
        ahead = t1 - t
        lands = size >= tl.abs(ahead)
        h = tl.where(lands, ahead, tl.where(ahead < 0, -size, size))
        h = tl.where(live, h, 0.0)
        slopes = tl.where((number == 0)[:, None, None], k[None, :, :], tl.zeros((PADDED, M, DP), tl.float32))
        rates = tl.where((number == 0)[:, None], rate[None, :], tl.zeros((PADDED, M), tl.float32))
        for stage in range(1, stages):
            point = y + combined(slopes, tl.load(table + stage * PADDED + number)) * h[:, None]
            v, divergence = velocity(point, t + tl.load(table + (PADDED + 2) * PADDED + stage) * h, row, rows, net, SHAPE)
            slopes = tl.where((number == stage)[:, None, None], v[None, :, :], slopes)
            rates = tl.where((number == stage)[:, None], divergence[None, :], rates)
        made = y + combined(slopes, b) * h[:, None]
        more = total + (tl.sum(rates * b[:, None], 0) * h).to(tl.float64)
        wrong = combined(slopes, e) * h[:, None]
        ratio = norm(wrong, tl.sum(rates * e[:, None], 0) * h, larger(y, made), larger(total.to(tl.float32), more.to(tl.float32)), rtol, atol, SHAPE)
        good = (ratio <= 1.0) & live
        tried += live.to(tl.int32)
        factor = 0.9 * power(tl.where(ratio < 1e-10, 1e-10, ratio), -1.0 / order)
        factor = tl.where(factor > 0.2, tl.where(factor > 10.0, 10.0, factor), 0.2)  # NaN, of an error that is not finite, shrinks
        size = tl.where(live, tl.abs(h) * tl.where(rejected & good & (factor > 1.0), 1.0, factor), size)
        rejected = live & (good == 0)
        if RECORD:
            kept = good & (accepted < capacity)
            place = wide * capacity + accepted
            keep(tape, place, kept, y, SHAPE[0], SHAPE[1])
            tl.store(tape + place * (SHAPE[0] + 2), t, mask=kept)
            tl.store(tape + place * (SHAPE[0] + 2) + 1, h, mask=kept)
        status = tl.where(rejected & (size < least), tl.where(ratio < float("inf"), 2, 3), status)
        y = tl.where(good[:, None], made, y)
        total = tl.where(good, more, total)
        t = tl.where(good, tl.where(lands, t1, t + h), t)
        k = tl.where(good[:, None], tl.sum(tl.where((number == stages - 1)[:, None, None], slopes, 0.0), 0), k)
        rate = tl.where(good, tl.sum(tl.where((number == stages - 1)[:, None], rates, 0.0), 0), rate)
        accepted += good.to(tl.int32)
        live = live & ((good & lands) == 0)
        status = tl.where(live & (status == 0) & (tried >= max_steps), 1, status)
        live = live & (status == 0)
        going = tl.max(live.to(tl.int32), 0)
    failed = status == 3
    put(x1, row, inside, tl.where(failed[:, None], float("nan"), y), SHAPE[0], SHAPE[1])
    tl.store(log_det + row, tl.where(failed, float("nan"), total.to(tl.float32)), mask=inside)
    place = stats + row * 4
    tl.store(place, 2 + (stages - 1) * tried, mask=inside)
    tl.store(place + 1, accepted, mask=inside)
    tl.store(place + 2, tried - accepted, mask=inside)
    tl.store(place + 3, status, mask=inside)
