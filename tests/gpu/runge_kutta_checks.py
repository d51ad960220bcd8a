"""What the kernels of Runge-Kutta combinations owe their reference, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.kernels import runge_kutta as plain
from flowkit.kernels.gpu import runge_kutta as gpu
from flowkit.testing.ops import same, worst

EXACT = 1e-12  # float64, of the largest entry
OWN_ERROR, FLOOR = 2.0, 3e-7  # float32: times the error of the reference, at least a few roundings of the largest entry
SHAPES = ((0, 3, 3), (1, 1, 1), (7, 7, 1), (63, 3, 2), (100, 4, 7), (5, 2, 33), (3, 7, 1024), (2, 3, 2500))


def draw(rows: int, stages: int, columns: int, device: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """State, stages (R, S, N) that lie as the engine keeps them, steps of both signs, weights, weights of the error."""
    generator = torch.Generator().manual_seed(rows + columns)
    shapes = ((rows, columns), (stages, rows, columns), (rows,), (stages,), (stages,))
    y, ks, h, b, e = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes)
    return y, ks.transpose(0, 1), h, b, e


def tolerances(columns: int, like: Tensor) -> tuple[Tensor, ...]:
    """One for all columns; one each; some columns left out; all left out."""
    each = torch.linspace(0.01, 0.2, columns, dtype=torch.float64).to(like)
    some = each.clone()
    some[::3] = torch.inf
    return like.new_tensor([0.01]), each, some, torch.full_like(each, torch.inf)


def values(device: str) -> None:
    """In float64 for odd sizes, long rows among them."""
    for rows, stages, columns in SHAPES:
        y, ks, h, b, e = draw(rows, stages, columns, device)
        who = f"{rows} rows of {columns}, {stages} stages"
        same(who, [gpu.stage(y, ks, h, b)], plain._stage_of_rows(y, ks, h, b), EXACT)
        for place, atol in enumerate(tolerances(columns, y)):
            args = (y, ks, h, b, e, atol, y.new_tensor([1e-10 if place else 0.1]))
            same(f"{who}, tolerance {place}", gpu.finish(*args), plain._finish_of_rows(*args), EXACT)


def splits(device: str) -> None:
    """Rows split between programs or not, in more or fewer pieces than a block: the same."""
    before = gpu.BLOCK, gpu.PROGRAMS
    y, ks, h, b, e = draw(2, 3, 600, device)
    args = (y, ks, h, b, e, y.new_tensor([0.01]), y.new_tensor([0.1]))
    wanted = plain._finish_of_rows(*args)
    try:
        for block, programs in ((256, 1), (64, 1024), (8, 64)):
            gpu.BLOCK, gpu.PROGRAMS = block, programs
            same(f"{block} {programs}", gpu.finish(*args), wanted, EXACT)
    finally:
        gpu.BLOCK, gpu.PROGRAMS = before


def float32_error(device: str) -> None:
    """In float32 errors are at most twice the reference's own, both against float64."""
    for rows, stages, columns in ((2000, 7, 6), (2, 6, 3000)):
        y, ks, h, b, e = draw(rows, stages, columns, device, torch.float32)
        args = (y, ks, h, b, e, y.new_tensor([0.01]), y.new_tensor([0.1]))
        true = plain._finish_of_rows(*(arg.double() for arg in args))
        for place, (mine, other, right) in enumerate(zip(gpu.finish(*args), plain._finish_of_rows(*args), true, strict=True)):
            error, own = worst(mine, right), worst(other, right)
            assert error <= OWN_ERROR * max(own, FLOOR), f"tensor {place}: error {error:.1e}, of the reference {own:.1e}"


def strange_values(device: str) -> None:
    """NaN and infinities come out where the reference has them, and two runs are bitwise equal."""
    for number in (float("nan"), float("inf")):
        for place in range(3):
            args = list(draw(9, 3, 4, device))
            args[place] = args[place].clone()
            args[place][4] = number
            full = (*args, args[0].new_tensor([0.01]), args[0].new_tensor([0.1]))
            found, wanted = gpu.finish(*full), plain._finish_of_rows(*full)
            for mine, other in zip((*found, gpu.stage(*args[:4])), (*wanted, *plain._stage_of_rows(*args[:4])), strict=True):
                assert torch.allclose(mine, other, rtol=EXACT, atol=EXACT, equal_nan=True), f"{number} in tensor {place}"
    y, ks, h, b, e = draw(50, 5, 700, device, torch.float32)
    args = (y, ks, h, b, e, y.new_tensor([0.01]), y.new_tensor([0.1]))
    same("again", gpu.finish(*args), gpu.finish(*args))
    some = (y[20:], ks[20:], h[20:], *args[3:])
    same("some rows", [part[20:] for part in gpu.finish(*args)], gpu.finish(*some))


CHECKS = {check.__name__: check for check in (values, splits, float32_error, strange_values)}
