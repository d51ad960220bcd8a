"""Inverses of autoregressive layers in C++: the calls of what EXPORT_STEPPED_AS in stepped.h defines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu import library
from flowkit.kernels.cpu.conditioned import ACTIVATIONS
from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.steps import Layer, Stack

_OPERATIONS = 50  # that are worth as much as an entry in ``library.call``
_NOTHING = (0,) * 10


class CpuStepped:
    """The kernel of inverses over a map.

    Args:
        map: the map's own.
    """

    def __init__(self, map: CpuScalarMap) -> None:
        self._encode, self._symbol = map.encode, f"stepped_{map.symbol}"

    def __call__(self, x: Tensor, stack: Stack, activation: str, constants: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """(z, log_det) of x (*B, D).

        Args:
            activation: a name of ACTIVATIONS.
            constants: of the map.
        """
        x = x.contiguous()
        out, log_det = torch.empty_like(x), x.new_empty(x.shape[:-1])
        rows = log_det.numel()
        if rows:
            steps = stack.steps
            numbers = [steps.plan.buffer_info()[0]]
            for layer, dense in zip(stack.layers, steps.dense, strict=True):
                numbers += _place(layer, rows, dense)
            numbers += _NOTHING if stack.skip is None else _place(stack.skip, rows, False)
            addresses, sizes = torch.tensor(numbers, dtype=torch.int64, device="cpu"), (rows, int(stack.bare), ACTIVATIONS.index(activation))
            library.call(self._symbol, (x, addresses, out, log_det), sizes, rows * steps.products // _OPERATIONS, 1, *self._encode(*constants))
        return out, log_det


def _place(layer: Layer, rows: int, dense: bool) -> tuple[int, ...]:
    """Where a layer lies, as C++ reads it; ``dense``: the mask holds nothing that is used at zero."""
    weight, bias, mask, offset = layer
    found = (weight.data_ptr(), *weight.stride(), 0 if bias is None else bias.data_ptr())
    found += (0, 0, 0) if dense or mask is None else (mask.data_ptr(), *mask.stride())
    return found + ((0, 0, 0) if offset is None else (offset.data_ptr(), *offset.expand(rows, -1).stride()))
