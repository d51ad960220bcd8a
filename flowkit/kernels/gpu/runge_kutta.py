"""The combinations of Runge-Kutta stages in Triton: the launches of the kernels in ``combinations``, as operators of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.kernels._shortcut import _watched
from flowkit.kernels.gpu import launch
from flowkit.kernels.gpu.launch import power
from flowkit.kernels.gpu.scalar_map import describe, unavailable
from flowkit.kernels.op import Fused

BLOCK = 1024  # entries of a program
PROGRAMS = 1024  # fewer row groups than these are split between programs, which fills a large GPU
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
DTYPES = frozenset((torch.float32, torch.float64))


def stage(y: Tensor, ks: Tensor, h: Tensor, weights: Tensor) -> Tensor:
    """y + h sum_j w_j k_j: y (R, N), ks (R, S, N) with the stages outermost in memory, h (R), weights (S) -> (R, N)."""
    y, ks, h = y.contiguous(), ks.transpose(0, 1).contiguous(), h.contiguous()
    out = torch.empty_like(y)
    if y.numel():
        block = min(BLOCK, power(y.numel()))
        constants = {"STAGES": len(weights), "BLOCK": block, "WIDE": y.numel() + block >= 2**31}
        launch.start("combinations", "stage_kernel", -(-y.numel() // block), (y, ks, h, weights, out, y.numel(), y.shape[1]), constants, **OPTIONS)
    return out


def finish(y0: Tensor, ks: Tensor, h: Tensor, b: Tensor, e: Tensor, atol: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor]:
    """The end of a step and the size of its error: atol (N) or (1), rtol (1), the rest as for ``stage`` -> (R, N) and (R)."""
    y0, ks, h, atol = y0.contiguous(), ks.transpose(0, 1).contiguous(), h.contiguous(), atol.contiguous()
    y1, error = torch.empty_like(y0), torch.empty_like(h)
    if y0.numel() == 0:
        return y1, error.zero_()
    rows, columns = y0.shape
    width = min(BLOCK, power(columns))
    height = min(BLOCK // width, power(rows))
    groups, blocks = -(-rows // height), -(-columns // width)
    steps = min(blocks, power(-(-blocks // max(1, PROGRAMS // groups))))
    splits = -(-blocks // steps)
    partial = y0.new_empty((rows, splits, 2)) if splits > 1 else error
    constants = {"STAGES": len(b), "ATOL_STRIDE": int(atol.numel() > 1), "ROWS": height, "COLUMNS": width, "STEPS": steps, "SPLIT": splits > 1}
    arguments = (y0, ks, h, b, e, atol, rtol, y1, error, partial, rows, columns, splits)
    launch.start("combinations", "finish_kernel", groups * splits, arguments, constants, **OPTIONS)
    if splits > 1:
        launch.start("combinations", "norm_kernel", rows, (partial, h, error, splits), {"BLOCK": min(BLOCK, power(splits))}, **OPTIONS)
    return y1, error


def _operator(name: str, schema: str, kernel: Any, fake: Any) -> Any:
    """The kernel as ``flowkit::name`` for whatever has to see an operator, and by itself elsewhere."""
    operator: Any = torch.library.custom_op(f"flowkit::{name}", kernel, mutates_args=(), device_types="cuda", schema=schema)
    operator.register_fake(fake)
    return lambda *args: operator(*args) if _watched(args) else kernel(*args)


_stage = _operator("runge_kutta_stage", "(Tensor y, Tensor ks, Tensor h, Tensor weights) -> Tensor", stage, lambda y, *rest: y.new_empty(y.shape))
_finish = _operator(
    "runge_kutta_finish",
    "(Tensor y0, Tensor ks, Tensor h, Tensor b, Tensor e, Tensor atol, Tensor rtol) -> (Tensor, Tensor)",
    finish,
    lambda y0, ks, h, *rest: (y0.new_empty(y0.shape), h.new_empty(h.shape)),
)

STAGE = Fused(lambda *args: (_stage(*args),), unavailable, describe, DTYPES)
FINISH = Fused(_finish, unavailable, describe, DTYPES)
