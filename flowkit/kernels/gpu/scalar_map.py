"""Scalar maps in Triton: how values are cut into tiles, and the launches of the two kernels in ``tiles``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.op import Fused

SLOTS = 128  # elements of a tile, and threads of a program
CELLS = 2048  # numbers of a section of the table at most: with more than 16 bins a tile has fewer elements
PROGRAMS = 1024  # fewer rows than these are split between programs, which fills a large GPU
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}  # of the compiler
_FOUND: list[str | None] = []
DTYPES = frozenset((torch.float64, torch.float32, torch.bfloat16, torch.float16))


def unavailable() -> str | None:
    """Why the GPU kernels cannot serve on this machine, or None."""
    if not _FOUND:
        missing = importlib.util.find_spec("triton") is None
        _FOUND.append("triton is not installed" if missing else None if torch.cuda.is_available() else "torch sees no CUDA device")
    return _FOUND[0]


# a constant of a compiled graph, like that of the CPU kernels
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def describe() -> str:
    """What serves."""
    import triton

    return f"Triton {triton.__version__}"


@dataclass(frozen=True)
class Table:
    """How the parameters of an element lie in the table of a tile.

    Args:
        count: parameters of an element.
        sections, numbers: of the table, powers of two.
        shape: the constants that the device functions take.
    """

    count: int
    sections: int
    numbers: int
    shape: tuple[Any, ...]


@dataclass(frozen=True)
class Tiles:
    """(rows, width) elements in tiles of ``height`` rows and ``columns`` slots in each; ``groups`` tiles down and ``blocks`` along a row."""

    rows: int
    width: int
    height: int
    columns: int
    groups: int
    blocks: int

    @property
    def steps(self) -> int:
        """Tiles along its rows that one forward program takes: all, unless the rows are few; or a power of two, for few compilations."""
        return min(self.blocks, _power(-(-self.blocks // max(1, PROGRAMS // self.groups))))


@dataclass(frozen=True)
class GpuScalarMap:
    """The kernels of a map.

    Args:
        source: the module of this folder with its device functions.
        table: (*constants) -> how its parameters lie.
    """

    source: str
    table: Callable[..., Table]

    def forward(self, inverse: bool, value: Tensor, params: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
        """(out, log_det); log_det is of float32 where value is of half precision."""
        event_dims = constants[-2]
        batch = value.shape[: value.dim() - event_dims]
        out = torch.empty_like(value)
        if value.numel() == 0:
            return out, value.new_zeros(batch, dtype=_real(value))  # the sum over an empty event
        table = self.table(*constants[:-2])
        tiles = _tiles(value, batch.numel(), table.numbers)
        splits = -(-tiles.blocks // tiles.steps)
        log_det = value.new_empty((*batch, splits) if splits > 1 else batch, dtype=_real(value))
        functions = self._functions("at", "forward")
        fixed = functions | _constants(value, table, tiles, inverse, constants) | {"STEPS": tiles.steps}
        _launch("forward_kernel", tiles.groups * splits, (value, params, out, log_det), (tiles.rows, tiles.width, splits), fixed)
        return out, log_det.sum(-1) if splits > 1 else log_det

    def backward(self, inverse: bool, grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
        """Cotangents of value and params."""
        grad_value, grad_params = torch.empty_like(value), torch.empty_like(params)
        if value.numel() == 0:
            return grad_value, grad_params
        table = self.table(*constants[:-2])
        tiles = _tiles(value, grad_log_det.numel(), table.numbers)
        functions = self._functions("at", "place_of", "backward")
        tensors = (grad_out, grad_log_det, value, params, grad_value, grad_params)
        sizes = (tiles.rows, tiles.width, tiles.blocks)
        _launch("backward_kernel", tiles.groups * tiles.blocks, tensors, sizes, functions | _constants(value, table, tiles, inverse, constants))
        return grad_value, grad_params

    def fused(self, call: Callable[..., Any]) -> Fused:
        """How the dispatch sees the operator ``call``."""
        return Fused(call, unavailable, describe, DTYPES)

    def _functions(self, *names: str) -> dict[str, Any]:
        module = importlib.import_module(f"flowkit.kernels.gpu.{self.source}")
        return {name: getattr(module, name) for name in names}


def _real(value: Tensor) -> torch.dtype:
    """The dtype of the arithmetic and of log_det."""
    return torch.promote_types(value.dtype, torch.float32)


def _power(least: int) -> int:
    """The smallest power of two of at least that much."""
    return 1 << max(0, least - 1).bit_length()


def _tiles(value: Tensor, rows: int, numbers: int) -> Tiles:
    width = value.numel() // rows
    slots = min(SLOTS, max(1, CELLS // numbers))
    columns = min(slots, _power(width))
    height = slots // columns
    return Tiles(rows, width, height, columns, math.ceil(rows / height), math.ceil(width / columns))


def _constants(value: Tensor, table: Table, tiles: Tiles, inverse: bool, constants: tuple[Any, ...]) -> dict[str, Any]:
    """What both kernels are compiled for."""
    from flowkit.kernels.gpu.language import tl

    return {
        "SHAPE": table.shape,
        "INVERSE": inverse,
        "NORMAL": constants[-1] == "normal",
        "COUNT": table.count,
        "SECTIONS": table.sections,
        "NUMBERS": table.numbers,
        "FLAT": _power(table.count * tiles.height * tiles.columns),
        "ROWS": tiles.height,
        "COLUMNS": tiles.columns,
        "WIDTH": tiles.width if tiles.blocks == 1 else 0,
        "REAL": tl.float64 if value.dtype == torch.float64 else tl.float32,
    }


def _launch(kernel: str, programs: int, tensors: tuple[Tensor, ...], sizes: tuple[int, ...], constants: dict[str, Any]) -> None:
    """Start a kernel on the device of its tensors, without waiting for it."""
    from flowkit.kernels.gpu import tiles

    device: AbstractContextManager[Any] = torch.cuda.device(tensors[0].device) if tensors[0].is_cuda else contextlib.nullcontext()
    with device:
        getattr(tiles, kernel)[(programs,)](*tensors, *sizes, **constants, **OPTIONS)
