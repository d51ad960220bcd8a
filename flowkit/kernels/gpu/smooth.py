"""Smooth activations on the device, each with its first and second derivative, and the gates of concat-squash layers."""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import constant, jit, tl
from flowkit.kernels.gpu.numbers import softplus, tanh

NAMES = ("tanh", "softplus", "silu", "elu", "gelu", "selu")
SELU_SCALE = constant(1.0507009873554805)
SELU_ALPHA = constant(1.6732632423543772)
ROOT_HALF = constant(0.7071067811865476)
PER_ROOT_TWO_PI = constant(0.3989422804014327)


@jit
def sigmoid(x: tl.tensor) -> Any:
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + tl.exp(-x))


@jit
def activated(a: tl.tensor, KIND: tl.constexpr) -> Any:
    """act(a), act'(a) and act''(a); KIND is a place in NAMES."""
    if KIND == 0:
        h = tanh(a)
        s = 1.0 - h * h
        return h, s, -2.0 * h * s
    elif KIND == 1:
        h, s = softplus(a)
        return h, s, s * (1.0 - s)
    elif KIND == 2:
        on = sigmoid(a)
        bend = on * (1.0 - on)
        return a * on, on + a * bend, bend * (2.0 + a * (1.0 - 2.0 * on))
    elif KIND == 3:
        e = tl.exp(tl.where(a > 0, 0.0, a))
        return tl.where(a > 0, a, e - 1.0), e, tl.where(a > 0, 0.0, e)
    elif KIND == 4:
        below = 0.5 + 0.5 * tl.math.erf(a * ROOT_HALF)
        density = tl.exp(-0.5 * a * a) * PER_ROOT_TWO_PI
        return a * below, below + a * density, density * (2.0 - a * a)
    else:
        e = tl.exp(tl.where(a > 0, 0.0, a)) * SELU_ALPHA
        h = tl.where(a > 0, a, e - SELU_ALPHA) * SELU_SCALE
        return h, tl.where(a > 0, 1.0, e) * SELU_SCALE, tl.where(a > 0, 0.0, e) * SELU_SCALE


@jit
def gate(gates: tl.tensor, t: tl.tensor, row: tl.tensor, live: tl.tensor) -> Any:
    """sigmoid(p t + q) for rows (p, q) of gates: (T), (W) -> (T, W)."""
    p = tl.load(gates + 2 * row, mask=live, other=0.0)
    q = tl.load(gates + 2 * row + 1, mask=live, other=0.0)
    return sigmoid(t[:, None] * p[None, :] + q[None, :])
