"""Scalar maps in C++: the calls of what EXPORT in tiles.h defines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu import library
from flowkit.kernels.op import Fused


@dataclass(frozen=True)
class CpuScalarMap:
    """The kernels of a map.

    Args:
        symbol: its name in C++, without the dtype.
        encode: (*constants) -> the numbers that C++ takes.
    """

    symbol: str
    encode: Callable[..., tuple[int | float, ...]]

    def forward(self, inverse: bool, value: Tensor, params: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
        """(out, log_det)."""
        out, log_det = torch.empty_like(value), value.new_empty(value.shape[: value.dim() - constants[-2]])
        if value.numel() == 0:
            return out, log_det.zero_()  # the sum over an empty event
        self._run(self.symbol, (value, params, out, log_det), log_det.numel(), inverse, constants)
        return out, log_det

    def backward(self, inverse: bool, grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
        """Cotangents of value and params."""
        grad_value, grad_params = torch.empty_like(value), torch.empty_like(params)
        if value.numel():
            self._run(f"{self.symbol}_backward", (grad_out, grad_log_det, value, params, grad_value, grad_params), grad_log_det.numel(), inverse, constants)
        return grad_value, grad_params

    def _run(self, symbol: str, tensors: tuple[Tensor, ...], rows: int, inverse: bool, constants: tuple[Any, ...]) -> None:
        value, params = tensors[-4:-2] if len(tensors) == 6 else tensors[:2]
        normal = int(constants[-1] == "normal")
        library.call(symbol, tensors, (rows, value.numel() // rows), params.numel(), normal, int(inverse), *self.encode(*constants[:-2]))

    def fused(self, call: Callable[..., Any]) -> Fused:
        """How the dispatch sees the operator that these kernels serve."""
        return Fused(call, library.unavailable, library.describe)
