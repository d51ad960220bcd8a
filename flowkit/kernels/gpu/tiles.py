"""What all fused scalar maps share on a GPU: the two kernels into which the device functions of a map are put.

A scalar map takes value (rows, E) and params (rows, E, P), P innermost, to out (rows, E) and the sum over E of its log-slopes,
log_det (rows); the backward recomputes everything from value and params.

Tile. A program owns ROWS whole rows, each in COLUMNS slots, a power of two of at least E; or, of longer rows, COLUMNS elements at a
time. The elements of a tile lie one after the other in memory, and so do all their parameters.

1. The parameters are read as one run of FLAT numbers, so neighbouring threads read neighbouring addresses.
2. One exchange through shared memory (``tl.gather``) turns the run into a table (SECTIONS, NUMBERS, SLOTS) in which a thread holds
   the whole column of its element. From there on sums, prefix sums and choices over the bins stay within a thread: no shuffles,
   and nothing is computed twice. The stride P is odd for splines, so the exchange has few bank conflicts.
3. The map is evaluated on (NUMBERS, SLOTS) tables and (SLOTS) vectors. Knots are sums of integers, and a value's distance from its
   knot, which float32 would cancel, is the one subtraction in float64: errors are a third of those of plain torch in float32.
4. log_det is a sum of each row's slots in a fixed order, without atomics: two runs are bitwise equal. Long rows that are few are
   split between programs; the partial sums (rows, splits) are added by the launcher.
5. The backward turns the cotangents of the table back into a run by a second exchange, and writes it in one piece.

Launches: one forward, one backward, and one for the partial sums where there are any.
Bytes moved, for b bytes a number: forward (P + 2) b an element, of which b are written; backward (2 P + 3) b, of which (P + 1) b are
written; and a number a row. A spline of 8 bins (P = 23) in float32 moves 100 and 196 bytes an element.

float16 and bfloat16 are computed, and summed, in float32. Offsets are of 64 bits; every load and store is masked.

A map is four device functions, given to the kernels with a tuple SHAPE of its constants:

    at(section, number, SHAPE)              the parameter that stands there in the table; any number where none does
    place_of(parameter, SHAPE, NUMBERS)     where in the table, section NUMBERS + number, the cotangent of a parameter stands
    forward(value, table, SHAPE, INVERSE, NUMBERS) -> (out, log_slope)
    backward(grad_out, grad_slope, value, table, SHAPE, INVERSE, NORMAL, NUMBERS) -> (grad_value, grad_table)

With NORMAL the backward adds to grad_out what the base's log-density passes to it, -out grad_slope.

Triton's own rules: an argument must not be called ``params`` (3.6 to 3.9 use the name), a string or tuple goes from function to
function only inside SHAPE, and a global or constexpr number stands to the right of a tensor.
"""

from __future__ import annotations

from typing import Any

from flowkit.kernels.gpu.language import constant, jit, tl

HALF_LOG_TWO_PI = constant(0.9189385332046727)


@jit
def element_of(slot: tl.tensor, COLUMNS: tl.constexpr, WIDTH: tl.constexpr) -> Any:
    """Which element of the tile's run a slot holds, if it holds one; WIDTH 0 means rows longer than a tile."""
    if WIDTH == COLUMNS or WIDTH == 0:
        return slot
    return (slot // COLUMNS) * WIDTH + slot % COLUMNS


@jit
def slot_of(element: tl.tensor, COLUMNS: tl.constexpr, WIDTH: tl.constexpr) -> Any:
    """The slot of an element of the tile's run."""
    if WIDTH == COLUMNS or WIDTH == 0:
        return element
    return (element // WIDTH) * COLUMNS + element % WIDTH


@jit
def read_table(
    raw: tl.tensor,
    first: tl.tensor,
    live: tl.tensor,
    at: tl.constexpr,
    SHAPE: tl.constexpr,
    SECTIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    SLOTS: tl.constexpr,
    FLAT: tl.constexpr,
    COUNT: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    REAL: tl.constexpr,
) -> Any:
    """The parameters of ``live`` elements from the first on, as a table."""
    place = tl.arange(0, FLAT)
    run = tl.load(raw + first * COUNT + place, mask=place < live * COUNT, other=0.0)
    index = tl.arange(0, SECTIONS * NUMBERS * SLOTS)
    # a thread knows its sections and numbers when it is compiled, so only the slot costs anything
    number = tl.minimum(tl.maximum(at(index // (NUMBERS * SLOTS), index // SLOTS % NUMBERS, SHAPE), 0), COUNT - 1)
    table = tl.gather(run, element_of(index % SLOTS, COLUMNS, WIDTH) * COUNT + number, 0)
    return tl.reshape(table, (SECTIONS, NUMBERS, SLOTS)).to(REAL)


@jit
def write_table(
    raw: tl.tensor,
    first: tl.tensor,
    live: tl.tensor,
    table: tl.tensor,
    place_of: tl.constexpr,
    SHAPE: tl.constexpr,
    SECTIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    SLOTS: tl.constexpr,
    FLAT: tl.constexpr,
    COUNT: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Write a table to the parameters of ``live`` elements from the first on."""
    place = tl.arange(0, FLAT)
    source = place_of(place % COUNT, SHAPE, NUMBERS) * SLOTS + tl.minimum(slot_of(place // COUNT, COLUMNS, WIDTH), SLOTS - 1)
    flat = tl.reshape(table.to(raw.dtype.element_ty), (SECTIONS * NUMBERS * SLOTS,))
    run = tl.gather(flat, source, 0)
    tl.store(raw + first * COUNT + place, run, mask=place < live * COUNT)


@jit
def forward_kernel(
    value: tl.tensor,
    raw: tl.tensor,
    out: tl.tensor,
    log_det: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    splits: tl.tensor,
    at: tl.constexpr,
    forward: tl.constexpr,
    SHAPE: tl.constexpr,
    INVERSE: tl.constexpr,
    NORMAL: tl.constexpr,
    COUNT: tl.constexpr,
    SECTIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    FLAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    REAL: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Grid (row groups x splits); a program takes STEPS tiles of its rows. log_det is (rows, splits)."""
    SLOTS: tl.constexpr = ROWS * COLUMNS
    program = tl.program_id(0)
    split = program % splits
    row = (program // splits).to(tl.int64) * ROWS
    slot = tl.arange(0, SLOTS)
    total = tl.zeros((SLOTS,), REAL)
    for step in range(STEPS):
        column = (split * STEPS + step) * COLUMNS
        first = row * width + column
        within = tl.minimum(tl.maximum(width - column, 0), COLUMNS)
        alive = tl.minimum(rows - row, ROWS).to(tl.int32)
        active = (slot // COLUMNS < alive) & (slot % COLUMNS < within)
        place = element_of(slot, COLUMNS, WIDTH)
        given = tl.load(value + first + place, mask=active, other=0.0).to(REAL)
        table = read_table(raw, first, alive * within, at, SHAPE, SECTIONS, NUMBERS, SLOTS, FLAT, COUNT, COLUMNS, WIDTH, REAL)
        made, steep = forward(given, table, SHAPE, INVERSE, NUMBERS)
        tl.store(out + first + place, made.to(out.dtype.element_ty), mask=active)
        if NORMAL:
            steep -= 0.5 * made * made + HALF_LOG_TWO_PI
        total += tl.where(active, steep, 0.0)
    mine = tl.arange(0, ROWS)
    tl.store(log_det + (row + mine) * splits + split, tl.sum(tl.reshape(total, (ROWS, COLUMNS)), 1), mask=row + mine < rows)


@jit
def backward_kernel(
    grad_out: tl.tensor,
    grad_log_det: tl.tensor,
    value: tl.tensor,
    raw: tl.tensor,
    grad_value: tl.tensor,
    grad_raw: tl.tensor,
    rows: tl.tensor,
    width: tl.tensor,
    blocks: tl.tensor,
    at: tl.constexpr,
    place_of: tl.constexpr,
    backward: tl.constexpr,
    SHAPE: tl.constexpr,
    INVERSE: tl.constexpr,
    NORMAL: tl.constexpr,
    COUNT: tl.constexpr,
    SECTIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    FLAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    REAL: tl.constexpr,
) -> None:
    """Grid (row groups x blocks of columns): one tile a program."""
    SLOTS: tl.constexpr = ROWS * COLUMNS
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64) * ROWS
    column = (program % blocks) * COLUMNS
    slot = tl.arange(0, SLOTS)
    first = row * width + column
    within = tl.minimum(width - column, COLUMNS)
    alive = tl.minimum(rows - row, ROWS).to(tl.int32)
    active = (slot // COLUMNS < alive) & (slot % COLUMNS < within)
    place = element_of(slot, COLUMNS, WIDTH)
    given = tl.load(value + first + place, mask=active, other=0.0).to(REAL)
    to_out = tl.load(grad_out + first + place, mask=active, other=0.0).to(REAL)
    to_slope = tl.load(grad_log_det + row + slot // COLUMNS, mask=active, other=0.0).to(REAL)
    table = read_table(raw, first, alive * within, at, SHAPE, SECTIONS, NUMBERS, SLOTS, FLAT, COUNT, COLUMNS, WIDTH, REAL)
    to_value, to_table = backward(to_out, to_slope, given, table, SHAPE, INVERSE, NORMAL, NUMBERS)
    tl.store(grad_value + first + place, to_value.to(grad_value.dtype.element_ty), mask=active)
    write_table(grad_raw, first, alive * within, to_table, place_of, SHAPE, SECTIONS, NUMBERS, SLOTS, FLAT, COUNT, COLUMNS, WIDTH)
