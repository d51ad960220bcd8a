"""The combinations of Runge-Kutta stages on the device (``kernels/runge_kutta.py``), for stages that lie one after the other.

Each kernel is one pass: with S stages in float32 a combination moves 4 (S + 2) bytes an element, the end of a step 4 (S + 2) and four for
each row. Sums over a row run in a fixed order, without atomics: two runs are bitwise equal. Rows that are long and few are split between
programs, whose partial sums a second kernel adds.
"""

from __future__ import annotations

from flowkit.kernels.gpu.language import jit, tl


@jit
def stage_kernel(
    y: tl.tensor,
    ks: tl.tensor,
    h: tl.tensor,
    weights: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    columns: tl.tensor,
    STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """y + h sum w k for BLOCK of the ``count`` entries, ``columns`` of them a row; WIDE where 32 bits do not count them."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    place = program * BLOCK + tl.arange(0, BLOCK)
    live = place < count
    total = tl.zeros((BLOCK,), y.dtype.element_ty)
    for number in tl.static_range(STAGES):
        total += tl.load(weights + number) * tl.load(ks + place, mask=live, other=0.0)
        ks += count
    step = tl.load(h + place // columns, mask=live, other=0.0)
    tl.store(out + place, tl.load(y + place, mask=live, other=0.0) + step * total, mask=live)


@jit
def finish_kernel(
    y0: tl.tensor,
    ks: tl.tensor,
    h: tl.tensor,
    b: tl.tensor,
    e: tl.tensor,
    atol: tl.tensor,
    rtol: tl.tensor,
    y1: tl.tensor,
    error: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    splits: tl.tensor,
    STAGES: tl.constexpr,
    ATOL_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    SPLIT: tl.constexpr,
) -> None:
    """Grid (row groups x splits): STEPS tiles of ROWS rows. Where rows are SPLIT, ``partial`` (rows, splits, 2) takes sums and how much is counted."""
    program = tl.program_id(0)
    split = program % splits
    row = (program // splits).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    alive = row < rows
    step = tl.load(h + row, mask=alive, other=0.0)[:, None]
    relative = tl.load(rtol)
    total = tl.zeros((ROWS, COLUMNS), y0.dtype.element_ty)
    counted = tl.zeros((ROWS, COLUMNS), y0.dtype.element_ty)
    for number in range(STEPS):
        column = (split * STEPS + number) * COLUMNS + tl.arange(0, COLUMNS)
        within = column < columns
        live = alive[:, None] & within[None, :]
        place = row[:, None] * columns + column[None, :]
        to_end = tl.zeros((ROWS, COLUMNS), y0.dtype.element_ty)
        wrong = tl.zeros((ROWS, COLUMNS), y0.dtype.element_ty)
        for stage in tl.static_range(STAGES):
            k = tl.load(ks + stage * (rows.to(tl.int64) * columns) + place, mask=live, other=0.0)
            to_end += tl.load(b + stage) * k
            wrong += tl.load(e + stage) * k
        before = tl.load(y0 + place, mask=live, other=0.0)
        after = before + step * to_end
        tl.store(y1 + place, after, mask=live)
        size_before = tl.abs(before)
        size_after = tl.abs(after)
        absolute = tl.load(atol + column * ATOL_STRIDE, mask=within, other=1.0)[None, :]
        scale = absolute + relative * tl.where(size_after <= size_before, size_before, size_after)  # NaN stays NaN
        ratio = wrong / scale
        total += tl.where(live, ratio * ratio, 0.0)
        counted += tl.where(live & (absolute < float("inf")), 1.0, 0.0)
    squares = tl.sum(total, 1)
    number_of = tl.sum(counted, 1)
    if SPLIT:
        place = (row * splits + split) * 2
        tl.store(partial + place, squares, mask=alive)
        tl.store(partial + place + 1, number_of, mask=alive)
    else:
        step = tl.load(h + row, mask=alive, other=0.0)
        tl.store(error + row, tl.abs(step) * tl.sqrt(squares / tl.where(number_of < 1.0, 1.0, number_of)), mask=alive)


@jit
def norm_kernel(partial: tl.tensor, h: tl.tensor, error: tl.tensor, splits: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Grid (rows): the root of the mean over the splits of a row, times |h|."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), partial.dtype.element_ty)
    counted = tl.zeros((BLOCK,), partial.dtype.element_ty)
    for start in range(0, splits, BLOCK):
        split = start + tl.arange(0, BLOCK)
        place = partial + (row * splits + split) * 2
        total += tl.load(place, mask=split < splits, other=0.0)
        counted += tl.load(place + 1, mask=split < splits, other=0.0)
    number_of = tl.sum(counted, 0)
    step = tl.load(h + row)
    tl.store(error + row, tl.abs(step) * tl.sqrt(tl.sum(total, 0) / tl.where(number_of < 1.0, 1.0, number_of)))
