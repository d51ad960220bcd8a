"""Diagonal chains in Triton: how values are cut into tiles, and the launches of the kernels in ``chains``."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.diagonal_steps import AFFINE, INVERSE_AFFINE, NAMES, largest_below_one, parse
from flowkit.kernels.gpu import launch
from flowkit.kernels.gpu.launch import power
from flowkit.kernels.gpu.scalar_map import DTYPES, describe, unavailable
from flowkit.kernels.op import Fused

BLOCK = 512  # elements of a tile
PROGRAMS = 1024  # fewer row groups than these are split between programs; and that many sum the cotangents of parameters
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def forward(value: Tensor, params: Tensor, program: str, event_dims: int, base: str) -> tuple[Tensor, Tensor]:
    """(out, log_det); log_det is of float32 where value is of half precision. Tensors are contiguous."""
    batch, length = value.shape[: value.dim() - event_dims], _length(value, event_dims)
    out = torch.empty_like(value)
    if value.numel() == 0:
        return out, value.new_zeros(batch, dtype=_real(value))
    rows = value.numel() // length
    width, height = _tile(rows, length)
    groups, blocks = -(-rows // height), -(-length // width)
    tiles = min(blocks, power(-(-blocks // max(1, PROGRAMS // groups))))
    splits = -(-blocks // tiles)
    log_det = value.new_empty((*batch, splits) if splits > 1 else batch, dtype=_real(value))
    constants = _constants(value, program, base, height, width) | {"TILES": tiles}
    sizes = (rows, length, length // params.shape[2], params.shape[2], splits)
    launch.start("chains", "chain_kernel", groups * splits, (value, params, out, log_det, *sizes), constants, **OPTIONS)
    return out, log_det.sum(-1) if splits > 1 else log_det


def backward(grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, program: str, event_dims: int, base: str) -> tuple[Tensor, Tensor]:
    """Cotangents of value and params. Tensors are contiguous."""
    grad_value = torch.empty_like(value)
    if value.numel() == 0:
        return grad_value, torch.zeros_like(params)
    length = _length(value, event_dims)
    rows = value.numel() // length
    width, height = _tile(rows, length)
    groups, blocks = -(-rows // height), -(-length // width)
    down = min(groups, max(1, PROGRAMS // blocks))
    kept = max(2, power(2 * len(params)))
    partial = value.new_empty((down, kept, length), dtype=_real(value))
    constants = _constants(value, program, base, height, width) | {"AFFINE": kept}
    sizes = (rows, length, length // params.shape[2], params.shape[2], blocks, groups)
    tensors = (grad_out, grad_log_det, value, params, grad_value, partial)
    launch.start("chains", "chain_backward_kernel", down * blocks, (*tensors, *sizes), constants, **OPTIONS)
    if not len(params):
        return grad_value, torch.zeros_like(params)
    total = partial[:, : 2 * len(params)].sum(0).view(*params.shape, -1).sum(-1)
    return grad_value, total.to(params.dtype)


def fused(call: Any) -> Fused:
    """How the dispatch sees the operator that these kernels serve."""
    return Fused(call, unavailable, describe, DTYPES)


def _real(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


def _length(value: Tensor, event_dims: int) -> int:
    return value.shape[value.dim() - event_dims :].numel() if value.dim() else 1


def _tile(rows: int, length: int) -> tuple[int, int]:
    """Columns and rows."""
    width = min(BLOCK, power(length))
    return width, min(BLOCK // width, power(rows))


def _constants(value: Tensor, program: str, base: str, height: int, width: int) -> dict[str, Any]:
    """What both kernels are compiled for."""
    from flowkit.kernels.gpu.language import tl

    steps = _steps(program)
    return {
        "PROGRAM": steps or (0,),
        "STEPS": len(steps) // 4,
        "ENDS": _ends(value.dtype),
        "NORMAL": base == "normal",
        "ROWS": height,
        "COLUMNS": width,
        "REAL": tl.float64 if value.dtype == torch.float64 else tl.float32,
    }


@lru_cache(maxsize=256)
def _steps(program: str) -> tuple[float, ...]:
    """Code, number, its logarithm, and how many affine steps came before, of each step."""
    found: list[float] = []
    taken = 0
    for name, number in parse(program):
        found += [NAMES.index(name), number, math.log(number), taken]
        taken += name in (AFFINE, INVERSE_AFFINE)
    return tuple(found)


def _ends(dtype: torch.dtype) -> tuple[float, ...]:
    """Of the values' own dtype, in which they must stay inside."""
    info = torch.finfo(dtype)
    held = tuple(math.log(end) * (1 - 4 * info.eps) for end in (info.tiny, info.max))
    return info.tiny, largest_below_one(dtype), *held, info.max
