"""A velocity field of two hidden layers on the device, with its divergence, for a tile of samples (``kernels/mlp_trajectory.py``).

    a1 = g1 (W1 x + b1) + r1 t,  h1 = act(a1);  a2 = g2 (W2 h1 + b2) + r2 t,  h2 = act(a2);  v = g3 (W3 h2 + b3) + r3 t

With s_k = g_k act'(a_k): ungated, div v = s2' K s1 where K = W2 * (W1 W3)'. Gates hang on t, which may differ between samples, so then
div v = sum_c g3_c (s2 * W3_c)' W2 (s1 * W1_c), a product of matrices for each feature c.

NET is (W1, b1, r1, W2, b2, r2, W3, b3, r3, gates, K), all row-major. SHAPE is (d, d padded, w, w padded, activation, gated, a bias b1 for
each sample, divergence, precision of products). Tiles are (samples, d or w padded) with zeros where nothing is; times are (samples) or (1).
Weights are read where they are used: the first cache keeps them.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.smooth import activated, gate


@jit
def matrix(start: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr) -> Any:
    """A (ROWS, COLUMNS) matrix in (HEIGHT, WIDTH), zeros beside it."""
    i = tl.arange(0, HEIGHT)[:, None]
    j = tl.arange(0, WIDTH)[None, :]
    return tl.load(start + i * COLUMNS + j, mask=(i < ROWS) & (j < COLUMNS), other=0.0)


@jit
def turned(start: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr) -> Any:
    """The transpose of a (ROWS, COLUMNS) matrix in (WIDTH, HEIGHT), zeros beside it."""
    i = tl.arange(0, HEIGHT)[None, :]
    j = tl.arange(0, WIDTH)[:, None]
    return tl.load(start + i * COLUMNS + j, mask=(i < ROWS) & (j < COLUMNS), other=0.0)


@jit
def vector(start: tl.tensor, COUNT: tl.constexpr, PADDED: tl.constexpr) -> Any:
    """COUNT numbers in PADDED places."""
    i = tl.arange(0, PADDED)
    return tl.load(start + i, mask=i < COUNT, other=0.0)


@jit
def times(x: tl.tensor, y: tl.tensor, SHAPE: tl.constexpr) -> Any:
    """A product of matrices."""
    return tl.dot(x, y, input_precision=SHAPE[8])


@jit
def layer(pre: tl.tensor, t: tl.tensor, drift: tl.tensor, gates: tl.tensor, FIRST: tl.constexpr, COUNT: tl.constexpr, SHAPE: tl.constexpr) -> Any:
    """g pre + r t, and g (T, W) or 1; the gates from FIRST on."""
    i = tl.arange(0, pre.shape[1])
    along = vector(drift, COUNT, pre.shape[1])[None, :] * t[:, None]
    if SHAPE[5]:
        g = gate(gates, t, FIRST + i, i < COUNT)
        return pre * g + along, g
    else:
        return pre + along, tl.full((1, 1), 1.0, tl.float32)


@jit
def first_layer(x: tl.tensor, t: tl.tensor, row: tl.tensor, rows: tl.tensor, net: tl.tuple, SHAPE: tl.constexpr) -> Any:
    """W1 x + b1, a1 and g1."""
    pre = times(x, turned(net[0], SHAPE[2], SHAPE[0], SHAPE[3], SHAPE[1]), SHAPE)
    if SHAPE[6]:
        i = tl.arange(0, SHAPE[3])
        pre += tl.load(net[1] + row[:, None] * SHAPE[2] + i[None, :], mask=(row[:, None] < rows) & (i[None, :] < SHAPE[2]), other=0.0)
    else:
        pre += vector(net[1], SHAPE[2], SHAPE[3])[None, :]
    a, g = layer(pre, t, net[2], net[9], 0, SHAPE[2], SHAPE)
    return pre, a, g


@jit
def second_layer(h: tl.tensor, t: tl.tensor, net: tl.tuple, SHAPE: tl.constexpr) -> Any:
    """W2 h1 + b2, a2 and g2."""
    pre = times(h, turned(net[3], SHAPE[2], SHAPE[2], SHAPE[3], SHAPE[3]), SHAPE) + vector(net[4], SHAPE[2], SHAPE[3])[None, :]
    a, g = layer(pre, t, net[5], net[9], SHAPE[2], SHAPE[2], SHAPE)
    return pre, a, g


@jit
def last_layer(h: tl.tensor, t: tl.tensor, net: tl.tuple, SHAPE: tl.constexpr) -> Any:
    """W3 h2 + b3, v and g3."""
    pre = times(h, turned(net[6], SHAPE[0], SHAPE[2], SHAPE[1], SHAPE[3]), SHAPE) + vector(net[7], SHAPE[0], SHAPE[1])[None, :]
    v, g = layer(pre, t, net[8], net[9], 2 * SHAPE[2], SHAPE[0], SHAPE)
    return pre, v, g


@jit
def column(start: tl.tensor, c: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PADDED: tl.constexpr) -> Any:
    """Column c of a (ROWS, COLUMNS) matrix as (1, PADDED)."""
    i = tl.arange(0, PADDED)
    return tl.load(start + i * COLUMNS + c, mask=i < ROWS, other=0.0)[None, :]


@jit
def last_gate(t: tl.tensor, c: tl.tensor, net: tl.tuple, SHAPE: tl.constexpr) -> Any:
    """g3 of feature c: (T)."""
    one = tl.zeros((1,), tl.int32) + 2 * SHAPE[2] + c
    return tl.sum(gate(net[9], t, one, one >= 0), 1)


@jit
def velocity(x: tl.tensor, t: tl.tensor, row: tl.tensor, rows: tl.tensor, net: tl.tuple, SHAPE: tl.constexpr) -> Any:
    """v (M, d padded), and its divergence (M), or zeros."""
    _, a1, g1 = first_layer(x, t, row, rows, net, SHAPE)
    h1, s1, _ = activated(a1, SHAPE[4])
    _, a2, g2 = second_layer(h1, t, net, SHAPE)
    h2, s2, _ = activated(a2, SHAPE[4])
    _, v, _ = last_layer(h2, t, net, SHAPE)
    divergence = tl.zeros((x.shape[0],), tl.float32)
    if SHAPE[7]:
        if SHAPE[5]:
            s1 = s1 * g1
            s2 = s2 * g2
            for c in range(SHAPE[0]):
                moved = times(s1 * column(net[0], c, SHAPE[2], SHAPE[0], SHAPE[3]), turned(net[3], SHAPE[2], SHAPE[2], SHAPE[3], SHAPE[3]), SHAPE)
                divergence += last_gate(t, c, net, SHAPE) * tl.sum(moved * s2 * vector(net[6] + c * SHAPE[2], SHAPE[2], SHAPE[3])[None, :], 1)
        else:
            divergence = tl.sum(s2 * times(s1, turned(net[10], SHAPE[2], SHAPE[2], SHAPE[3], SHAPE[3]), SHAPE), 1)
    return v, divergence
