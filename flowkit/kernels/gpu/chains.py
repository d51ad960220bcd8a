"""Diagonal chains on the device (``kernels/diagonal_chain.py``): a pass over the values, and one in the backward, which computes the rest again.

PROGRAM is (code, number, log number, affine steps before) for each step, one after the other. A tile is ROWS rows by COLUMNS elements of them; an affine
step's shift and log-scale are (length / repeats) numbers that all rows share. Their cotangents are summed over the rows of a program in a
fixed order, and over programs by the launcher: two runs are bitwise equal.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.diagonal_steps import step_backward, step_forward
from flowkit.kernels.gpu.language import constant, jit, tl
from flowkit.kernels.gpu.numbers import exp

HALF_LOG_TWO_PI = constant(0.9189385332046727)


@jit
def affine(raw: tl.tensor, taken: tl.constexpr, position: tl.tensor, within: tl.tensor, positions: tl.tensor, x: tl.tensor, CODE: tl.constexpr) -> Any:
    """Value and log-slope of an affine step, or its inverse."""
    shift = tl.load(raw + 2 * taken * positions + position, mask=within, other=0.0).to(x.dtype)[None, :]
    log_scale = tl.load(raw + (2 * taken + 1) * positions + position, mask=within, other=0.0).to(x.dtype)[None, :]
    if CODE == 1:
        return (x - shift) * exp(-log_scale), -log_scale
    return x * exp(log_scale) + shift, log_scale


@jit
def affine_backward(
    raw: tl.tensor,
    taken: tl.constexpr,
    position: tl.tensor,
    within: tl.tensor,
    positions: tl.tensor,
    x: tl.tensor,
    g: tl.tensor,
    h: tl.tensor,
    CODE: tl.constexpr,
) -> Any:
    """Cotangents of the value, the shift and the log-scale."""
    shift = tl.load(raw + 2 * taken * positions + position, mask=within, other=0.0).to(x.dtype)[None, :]
    log_scale = tl.load(raw + (2 * taken + 1) * positions + position, mask=within, other=0.0).to(x.dtype)[None, :]
    if CODE == 1:
        passed = g * exp(-log_scale)
        return passed, -passed, passed * (shift - x) - h
    passed = g * exp(log_scale)
    return passed, g, passed * x + h


@jit
def chained(
    x: tl.tensor, raw: tl.tensor, position: tl.tensor, within: tl.tensor, positions: tl.tensor, PROGRAM: tl.constexpr, STEPS: tl.constexpr, ENDS: tl.constexpr
) -> Any:
    """The first STEPS steps of a program: value and log-slope."""
    slope = tl.zeros_like(x)
    for step in tl.static_range(STEPS):
        if PROGRAM[4 * step] < 2:
            x, more = affine(raw, PROGRAM[4 * step + 3], position, within, positions, x, PROGRAM[4 * step])
        else:
            x, more = step_forward(x, PROGRAM[4 * step], PROGRAM[4 * step + 1], PROGRAM[4 * step + 2], ENDS)
        slope += more
    return x, slope


@jit
def chain_kernel(
    value: tl.tensor,
    raw: tl.tensor,
    out: tl.tensor,
    log_det: tl.tensor,
    rows: tl.tensor,
    length: tl.tensor,
    repeats: tl.tensor,
    positions: tl.tensor,
    splits: tl.tensor,
    PROGRAM: tl.constexpr,
    STEPS: tl.constexpr,
    ENDS: tl.constexpr,
    NORMAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
    REAL: tl.constexpr,
) -> None:
    """Grid (row groups x splits): TILES tiles of ROWS rows; log_det is (rows, splits)."""
    program = tl.program_id(0)
    split = program % splits
    row = (program // splits).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), REAL)
    for number in range(TILES):
        column = (split * TILES + number) * COLUMNS + tl.arange(0, COLUMNS)
        within = column < length
        live = (row < rows)[:, None] & within[None, :]
        place = row[:, None] * length + column[None, :]
        x = tl.load(value + place, mask=live, other=0.5).to(REAL)
        x, slope = chained(x, raw, column // repeats, within, positions, PROGRAM, STEPS, ENDS)
        tl.store(out + place, x.to(out.dtype.element_ty), mask=live)
        if NORMAL:
            slope -= 0.5 * x * x + HALF_LOG_TWO_PI
        total += tl.where(live, slope, 0.0)
    tl.store(log_det + row * splits + split, tl.sum(total, 1), mask=row < rows)


@jit
def chain_backward_kernel(
    grad_out: tl.tensor,
    grad_log_det: tl.tensor,
    value: tl.tensor,
    raw: tl.tensor,
    grad_value: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    length: tl.tensor,
    repeats: tl.tensor,
    positions: tl.tensor,
    blocks: tl.tensor,
    groups: tl.tensor,
    PROGRAM: tl.constexpr,
    STEPS: tl.constexpr,
    ENDS: tl.constexpr,
    NORMAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    AFFINE: tl.constexpr,
    REAL: tl.constexpr,
) -> None:
    """Grid (programs down x blocks of columns): every so many groups of rows; ``partial`` is (programs down, AFFINE, length)."""
    down = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    within = column < length
    position = column // repeats
    which = tl.arange(0, AFFINE)
    sums = tl.zeros((AFFINE, COLUMNS), REAL)
    for group in range(down, groups, tl.num_programs(0) // blocks):
        row = (tl.zeros((ROWS,), tl.int64) + group) * ROWS + tl.arange(0, ROWS)
        live = (row < rows)[:, None] & within[None, :]
        place = row[:, None] * length + column[None, :]
        given = tl.load(value + place, mask=live, other=0.5).to(REAL)
        g = tl.load(grad_out + place, mask=live, other=0.0).to(REAL)
        h = tl.load(grad_log_det + row, mask=row < rows, other=0.0).to(REAL)[:, None]
        if NORMAL:  # the base's log-density hangs on the output
            made, _ = chained(given, raw, position, within, positions, PROGRAM, STEPS, ENDS)
            g = g - tl.where(h == 0.0, 0.0, made * h)  # zero times an infinite latent is nothing
        for back in tl.static_range(STEPS):
            x, _ = chained(given, raw, position, within, positions, PROGRAM, STEPS - 1 - back, ENDS)
            if PROGRAM[4 * (STEPS - 1 - back)] < 2:
                g, to_shift, to_scale = affine_backward(
                    raw, PROGRAM[4 * (STEPS - 1 - back) + 3], position, within, positions, x, g, h, PROGRAM[4 * (STEPS - 1 - back)]
                )
                first = 2 * PROGRAM[4 * (STEPS - 1 - back) + 3]
                sums += tl.where((which == first)[:, None], tl.sum(tl.where(live, to_shift, 0.0), 0)[None, :], 0.0)
                sums += tl.where((which == first + 1)[:, None], tl.sum(tl.where(live, to_scale, 0.0), 0)[None, :], 0.0)
            else:
                g = step_backward(x, g, h, PROGRAM[4 * (STEPS - 1 - back)], PROGRAM[4 * (STEPS - 1 - back) + 1], ENDS)
        tl.store(grad_value + place, g.to(grad_value.dtype.element_ty), mask=live)
    place = (down * AFFINE + which).to(tl.int64)[:, None] * length + column[None, :]
    tl.store(partial + place, sums, mask=within[None, :] & (which >= 0)[:, None])
