"""The scalar maps of a diagonal chain on the device (``kernels/diagonal_steps.py``), each with its log-slope and its backward.

CODE is a place in NAMES there, A the number of a step. ENDS is (smallest normal number, the number before 1, where exp is held below and above,
the largest number). Values held inside the codomain pass no cotangent on.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import jit, tl
from flowkit.kernels.gpu.numbers import clamped, exp, log1p, tanh


@jit
def size_of(x: tl.tensor) -> Any:
    """|x|; NaN stays NaN."""
    return tl.where(x < 0, -x, x)


@jit
def unless_held(x: tl.tensor, LOW: tl.constexpr, HIGH: tl.constexpr, passed: tl.tensor) -> Any:
    """``passed`` where x is not held, else zero."""
    return tl.where((x >= LOW) & (x <= HIGH), passed, 0.0)


@jit
def share_below(x: tl.tensor) -> Any:
    """1 - exp(-x) for x >= 0: near zero by tanh(x / 2)."""
    half = tanh(0.5 * x)
    return tl.where(x < 0.5, 2.0 * half / (1.0 + half), 1.0 - exp(-x))


@jit
def step_forward(x: tl.tensor, CODE: tl.constexpr, A: tl.constexpr, LOG_A: tl.constexpr, ENDS: tl.constexpr) -> Any:
    """Value and log-slope of a fixed map."""
    if CODE == 2:  # exp
        return clamped(exp(clamped(x, ENDS[2], ENDS[3])), ENDS[0], ENDS[4]), x
    elif CODE == 3:  # log
        out = tl.log(tl.where(x < ENDS[0], ENDS[0], x))
        return out, -out
    elif CODE == 4:  # sigmoid
        size = size_of(x / A)
        e = exp(-size)
        return clamped(tl.where(x > 0, 1.0, e) / (e + 1.0), ENDS[0], ENDS[1]), -size - 2.0 * log1p(e) - LOG_A
    elif CODE == 5:  # logit
        x = clamped(x, ENDS[0], ENDS[1])
        left = tl.log(x)
        right = log1p(-x)
        return (left - right) * A, LOG_A - left - right
    elif CODE == 6:  # softplus
        rest = log1p(exp(-size_of(x)))
        out = tl.where(x > 0, x, 0.0) + rest
        return tl.where(out < ENDS[0], ENDS[0], out), tl.where(x > 0, 0.0, x) - rest
    elif CODE == 7:  # inverse softplus
        x = tl.where(x < ENDS[0], ENDS[0], x)
        rest = tl.where(x < 0.5, tl.log(share_below(x)), log1p(-exp(-x)))
        return x + rest, -rest
    elif CODE == 8:  # tanh
        size = size_of(x)
        return clamped(tanh(x), -ENDS[1], ENDS[1]), 1.3862943611198906 - 2.0 * size - 2.0 * log1p(exp(-2.0 * size))
    elif CODE == 9:  # atanh
        x = clamped(x, -ENDS[1], ENDS[1])
        left = log1p(x)
        right = log1p(-x)
        return 0.5 * (left - right), -left - right
    elif CODE == 10:  # softclip
        size = size_of(x / A)
        near = clamped(x, -ENDS[4], ENDS[4])  # infinity over infinity is not the bound
        return clamped(near / (clamped(size_of(near / A), 0.0, ENDS[4]) + 1.0), -A, A), -2.0 * tl.where(size > ENDS[4], size, log1p(size))
    else:  # inverse softclip
        x = clamped(x, -A, A)
        size = size_of(x / A)
        rest = 1.0 - tl.where(size > ENDS[1], ENDS[1], size)
        return x / rest, -2.0 * tl.log(rest)


@jit
def step_backward(x: tl.tensor, g: tl.tensor, h: tl.tensor, CODE: tl.constexpr, A: tl.constexpr, ENDS: tl.constexpr) -> Any:
    """The cotangent of x, from those of the value and of the log-slope."""
    if CODE == 2:
        return unless_held(x, ENDS[2], ENDS[3], g * exp(x)) + h
    elif CODE == 3:
        return tl.where(x >= ENDS[0], (g - h) / x, 0.0)
    elif CODE == 4:
        e = exp(-size_of(x / A))
        share = 1.0 / (e + 1.0)
        bend = (e - 1.0) * share
        through = unless_held(tl.where(x > 0, 1.0, e) * share, ENDS[0], ENDS[1], g * e * share * share)
        return (through + h * tl.where(x < 0, -bend, bend)) / A
    elif CODE == 5:
        return unless_held(x, ENDS[0], ENDS[1], (g * A + h * (2.0 * x - 1.0)) / (x * (1.0 - x)))
    elif CODE == 6:
        e = exp(-size_of(x))
        share = 1.0 / (e + 1.0)
        out = tl.where(x > 0, x, 0.0) + log1p(e)
        return tl.where(out >= ENDS[0], g * tl.where(x > 0, share, e * share), 0.0) + h * tl.where(x > 0, e * share, share)
    elif CODE == 7:
        return tl.where(x >= ENDS[0], (g - h * exp(-x)) / share_below(x), 0.0)
    elif CODE == 8:
        out = tanh(x)
        e = exp(-2.0 * size_of(x))
        share = 1.0 / (e + 1.0)
        return unless_held(out, -ENDS[1], ENDS[1], g * (4.0 * e * share * share)) - 2.0 * h * out
    elif CODE == 9:
        return unless_held(x, -ENDS[1], ENDS[1], (g + 2.0 * h * x) / ((1.0 - x) * (1.0 + x)))
    elif CODE == 10:
        share = 1.0 / (size_of(x / A) + 1.0)
        sign = tl.where(x < 0, -1.0, tl.where(x > 0, 1.0, 0.0))
        return unless_held(x * share, -A, A, g * share * share) - h * sign * share * (2.0 / A)
    else:
        size = size_of(x / A)
        rest = 1.0 - tl.where(size > ENDS[1], ENDS[1], size)
        sign = tl.where(x < 0, -1.0, tl.where(x > 0, 1.0, 0.0))
        from_size = tl.where(size <= ENDS[1], (g * x / rest + 2.0 * h) / rest, 2.0 * h / (rest + size))
        return unless_held(x, -A, A, g / rest + sign / A * from_size)
