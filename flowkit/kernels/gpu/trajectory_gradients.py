"""The backward of whole solves on the device: the discrete adjoint of every step, in closed form.

With a the cotangent of a step's end and c that of log_det, stage i from the last to the first has

    k_i' = h b_i a + h sum_{j>i} a_ji x_j',  l_i' = h b_i c,  x_i' = the cotangents of the point where (v, div v) is evaluated

and a grows by the sum of all x_i'. Programs take tiles in a fixed order and add the gradients of weights up in a buffer of their own, in
memory, where only the first cache is touched; the launcher sums the buffers: two runs are bitwise equal.

A buffer holds W1 (w, d), W2 (w, w), K (w, w), W3 (d, w), then b1, r1, b2, r2, the gates' p and q of both hidden layers (w each), and b3, r3 and
the last layer's p and q (d each), all padded.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.smooth import activated
from flowkit.kernels.gpu.trajectories import combined, put, tile
from flowkit.kernels.gpu.two_layers import column, first_layer, last_gate, last_layer, matrix, second_layer, times, turned, vector, velocity


@jit
def add_product(buffer: tl.tensor, x: tl.tensor, y: tl.tensor, SHAPE: tl.constexpr) -> None:
    """buffer += x' y, for x (M, H) and y (M, W)."""
    place = buffer + tl.arange(0, x.shape[1])[:, None] * y.shape[1] + tl.arange(0, y.shape[1])[None, :]
    tl.store(place, tl.dot(tl.trans(x), y, tl.load(place), input_precision=SHAPE[8]))


@jit
def add_rows(buffer: tl.tensor, x: tl.tensor) -> None:
    """buffer += the sum over the tile of x (M, W)."""
    place = buffer + tl.arange(0, x.shape[1])
    tl.store(place, tl.load(place) + tl.sum(x, 0))


@jit
def through_layer(to_a: tl.tensor, to_gate: tl.tensor, pre: tl.tensor, t: tl.tensor, g: tl.tensor, bias: tl.tensor, pq: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """The cotangent of ``pre`` from that of a = g pre + r t; adds those of the bias, of r behind it, and of the gate's p and q behind one another.

    ``to_gate`` is what else g receives.
    """
    add_rows(bias + pre.shape[1], to_a * t[:, None])
    if SHAPE[5]:
        to_z = (to_a * pre + to_gate) * (g * (1.0 - g))
        add_rows(pq, to_z * t[:, None])
        add_rows(pq + pre.shape[1], to_z)
        to_a = to_a * g
    add_rows(bias, to_a)
    return to_a


@jit
def traced(s1: tl.tensor, s2: tl.tensor, rate: tl.tensor, t: tl.tensor, g3: tl.tensor, net: tl.tuple, buffer: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """Cotangents of s1, s2 and g3 from the divergence's, ``rate`` (M); adds those of the weights."""
    D: tl.constexpr = SHAPE[0]
    DP: tl.constexpr = SHAPE[1]
    W: tl.constexpr = SHAPE[2]
    WP: tl.constexpr = SHAPE[3]
    to_g3 = tl.zeros((s1.shape[0], DP), tl.float32)
    if SHAPE[5]:
        to_s1 = tl.zeros_like(s1)
        to_s2 = tl.zeros_like(s2)
        feature = tl.arange(0, DP)
        for c in range(D):
            first = column(net[0], c, W, D, WP)
            last = vector(net[6] + c * W, W, WP)[None, :]
            e = s1 * first
            f = s2 * last
            moved = times(e, turned(net[3], W, W, WP, WP), SHAPE)
            part = (rate * last_gate(t, c, net, SHAPE))[:, None]
            to_e = times(f * part, matrix(net[3], W, W, WP, WP), SHAPE)
            add_product(buffer + WP * DP, f * part, e, SHAPE)
            to_s1 += to_e * first
            to_s2 += moved * part * last
            place = buffer + tl.arange(0, WP) * DP + c
            tl.store(place, tl.load(place) + tl.sum(to_e * s1, 0))
            add_rows(buffer + WP * DP + 2 * WP * WP + c * WP, moved * part * s2)
            to_g3 += tl.where((feature == c)[None, :], (rate * tl.sum(moved * f, 1))[:, None], 0.0)
            tl.debug_barrier()  # what is stored here others read
        return to_s1, to_s2, to_g3
    else:
        share = rate[:, None]
        add_product(buffer + WP * DP + WP * WP, s2 * share, s1, SHAPE)
        return times(s2, matrix(net[10], W, W, WP, WP), SHAPE) * share, times(s1, turned(net[10], W, W, WP, WP), SHAPE) * share, to_g3


@jit
def field_gradients(
    x: tl.tensor, t: tl.tensor, to_v: tl.tensor, rate: tl.tensor, row: tl.tensor, rows: tl.tensor, net: tl.tuple, buffer: tl.tensor, SHAPE: tl.constexpr
) -> Any:
    """The cotangents of x and of W1 x + b1, from those of v and of div v; adds those of the weights."""
    D: tl.constexpr = SHAPE[0]
    DP: tl.constexpr = SHAPE[1]
    W: tl.constexpr = SHAPE[2]
    WP: tl.constexpr = SHAPE[3]
    vectors = buffer + 2 * WP * DP + 2 * WP * WP
    pre1, a1, g1 = first_layer(x, t, row, rows, net, SHAPE)
    h1, s1, bend1 = activated(a1, SHAPE[4])
    pre2, a2, g2 = second_layer(h1, t, net, SHAPE)
    h2, s2, bend2 = activated(a2, SHAPE[4])
    pre3, _, g3 = last_layer(h2, t, net, SHAPE)
    to_s1 = tl.zeros_like(s1)
    to_s2 = tl.zeros_like(s2)
    to_g3 = tl.zeros_like(pre3)
    if SHAPE[7]:
        to_s1, to_s2, to_g3 = traced(s1 * g1, s2 * g2, rate, t, g3, net, buffer, SHAPE)
    to_pre3 = through_layer(to_v, to_g3, pre3, t, g3, vectors + 8 * WP, vectors + 8 * WP + 2 * DP, SHAPE)
    add_product(buffer + WP * DP + 2 * WP * WP, to_pre3, h2, SHAPE)
    to_a2 = times(to_pre3, matrix(net[6], D, W, DP, WP), SHAPE) * s2 + to_s2 * g2 * bend2
    to_pre2 = through_layer(to_a2, to_s2 * s2, pre2, t, g2, vectors + 2 * WP, vectors + 6 * WP, SHAPE)
    add_product(buffer + WP * DP, to_pre2, h1, SHAPE)
    to_a1 = times(to_pre2, matrix(net[3], W, W, WP, WP), SHAPE) * s1 + to_s1 * g1 * bend1
    to_pre1 = through_layer(to_a1, to_s1 * s1, pre1, t, g1, vectors, vectors + 4 * WP, SHAPE)
    add_product(buffer, to_pre1, x, SHAPE)
    tl.debug_barrier()  # the next sums are read by other threads
    return times(to_pre1, matrix(net[0], W, D, WP, DP), SHAPE), to_pre1


@jit
def backward_kernel(
    to_x1: tl.tensor,
    to_log_det: tl.tensor,
    tape: tl.tensor,
    stats: tl.tensor,
    net: tl.tuple,
    table: tl.tensor,
    to_x: tl.tensor,
    to_bias: tl.tensor,
    buffers: tl.tensor,
    rows: tl.tensor,
    t0: tl.tensor,
    step: tl.tensor,
    steps: tl.tensor,
    capacity: tl.tensor,
    stages: tl.tensor,
    SHAPE: tl.constexpr,
    PLAIN: tl.constexpr,
    PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    ADAPTIVE: tl.constexpr,
    M: tl.constexpr,
) -> None:
    """Cotangents of x and of a bias for each sample, and sums for the weights in the (programs, SIZE) buffers.

    PLAIN is SHAPE without the divergence.
    """
    DP: tl.constexpr = SHAPE[1]
    WP: tl.constexpr = SHAPE[3]
    buffer = buffers + tl.program_id(0).to(tl.int64) * SIZE
    number = tl.arange(0, PADDED)
    feature = tl.arange(0, SHAPE[1])
    for at in range(tl.program_id(0), tl.cdiv(rows, M), tl.num_programs(0)):
        row = at * M + tl.arange(0, M)
        wide = row.to(tl.int64)
        inside = row < rows
        sound = inside & (tl.load(stats + row * 4 + 3, mask=inside, other=3) != 3)  # nothing passes through what is not finite
        a = tile(to_x1, row, sound, SHAPE[0], SHAPE[1])
        to_total = tl.load(to_log_det + row, mask=sound, other=0.0)
        own = tl.zeros((M, WP), tl.float32)
        count = tl.zeros((M,), tl.int32) + steps
        if ADAPTIVE:
            count = tl.minimum(tl.load(stats + row * 4 + 1, mask=sound, other=0), capacity)
        most = tl.max(count, 0)
        for back in range(most):
            n = most - 1 - back
            live = sound & (n < count)
            place = (wide * capacity + n) * (SHAPE[0] + 2)
            y = tl.load(tape + place[:, None] + 2 + feature[None, :], mask=live[:, None] & (feature[None, :] < SHAPE[0]), other=0.0)
            if ADAPTIVE:
                t = tl.load(tape + place, mask=live, other=0.0)
                h = tl.load(tape + place + 1, mask=live, other=0.0)
            else:
                h = tl.zeros((1,), tl.float32) + step
                t = t0 + (tl.zeros((1,), tl.float32) + n) * h
            slopes = tl.zeros((PADDED, M, DP), tl.float32)
            for stage in range(stages - 1):
                point = y + combined(slopes, tl.load(table + stage * PADDED + number)) * h[:, None]
                v, _ = velocity(point, t + tl.load(table + (PADDED + 2) * PADDED + stage) * h, row, rows, net, PLAIN)
                slopes = tl.where((number == stage)[:, None, None], v[None, :, :], slopes)
            points = tl.zeros((PADDED, M, DP), tl.float32)
            for later in range(stages):
                stage = stages - 1 - later
                point = y + combined(slopes, tl.load(table + stage * PADDED + number)) * h[:, None]
                b = tl.load(table + PADDED * PADDED + stage)
                to_v = (combined(points, tl.load(table + number * PADDED + stage)) + a * b) * h[:, None]
                moment = t + tl.load(table + (PADDED + 2) * PADDED + stage) * h
                to_point, to_pre = field_gradients(point, moment, to_v, to_total * (b * h), row, rows, net, buffer, SHAPE)
                points = tl.where((number == stage)[:, None, None], to_point[None, :, :], points)
                if SHAPE[6]:
                    own += to_pre
            a += tl.sum(points, 0)
        put(to_x, row, inside, a, SHAPE[0], SHAPE[1])
        if SHAPE[6]:
            put(to_bias, row, inside, own, SHAPE[2], SHAPE[3])
