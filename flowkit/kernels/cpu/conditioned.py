"""Layers over a scalar map in C++: the calls of what EXPORT_CONDITIONED_AS in conditioned.h defines."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu import library
from flowkit.kernels.cpu.loans import borrow
from flowkit.kernels.cpu.scalar_map import CpuScalarMap

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "elu", "silu")  # in the order of C++
LARGEST = 1_000_000  # weights: with more, the gradients of the parts of a batch leave the caches, and torch's own products serve better
_TILE = 64  # as in C++
_OPERATIONS = 50  # that are worth as much as an entry in ``library.call``


@dataclass(frozen=True)
class Plan:
    """A layer but for its tensors.

    Attributes:
        numbers: what C++ reads of its shape.
        constants: of the call.
        state_rows: numbers that the network leaves of a sample.
        operations: products for a sample.
        normal: whether log_det has the density of a normal in it, and the backward reads what the layer returned.
    """

    numbers: Tensor
    constants: tuple[int | float, ...]
    state_rows: int
    operations: int
    normal: bool


@dataclass(frozen=True)
class CpuConditioned:
    """The kernels of layers over a map.

    Args:
        map: the map's own.
        inverse: whether the layers map by its inverse.
    """

    map: CpuScalarMap
    inverse: bool

    def plan(
        self, features: int, contexts: int, activation: str, widths: Sequence[int], given: Sequence[int], mapped: Sequence[int], constants: Any, base: str
    ) -> Plan:
        """The plan of layers whose network has these widths, from its inputs to its outputs."""
        shape = [features, contexts, ACTIVATIONS.index(activation), len(widths) - 1, *widths, len(given), *given, len(mapped), *mapped]
        return Plan(
            torch.tensor(shape, dtype=torch.int64, device="cpu"),
            (int(base == "normal"), int(self.inverse), *self.map.encode(*constants)),
            sum((width + 15) // 16 * 16 for width in widths[1:]),
            sum(before * after for before, after in pairwise(widths)),
            base == "normal",
        )

    def forward(self, plan: Plan, tensors: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(out, log_det, states), the last empty unless they are to be kept for the backward.

        Args:
            tensors: value (*B, D), context (*B, C) and the weights, contiguous.
        """
        value, context, *weights = tensors
        out, log_det = torch.empty_like(value), value.new_empty(value.shape[:-1])
        rows = log_det.numel()
        states = borrow((rows + _TILE - 1) // _TILE * _TILE * plan.state_rows if keep else 0, value.dtype)
        if rows:
            given: tuple[Any, ...] = (value, context, _Addresses(weights), plan.numbers, out, log_det, states)
            library.call(f"conditioned_{self.map.symbol}", given, (rows,), rows * plan.operations // _OPERATIONS, *plan.constants)
        return out, log_det, states

    def backward(
        self, plan: Plan, grads: Sequence[Tensor], out: Tensor, states: Tensor, tensors: Sequence[Tensor], *, inputs: bool, weights: bool
    ) -> tuple[Tensor | None, ...]:
        """Cotangents of the tensors, None for those that are not wanted.

        Args:
            grads: cotangents of out and log_det; all tensors are contiguous.
            out: what ``forward`` returned, where the plan is ``normal``.
            inputs, weights: whether the cotangents of value and context, and of the weights, are wanted.
        """
        of_value, of_context, of_weights = self._pull(plan, grads, out, states, tensors, inputs, weights)
        none: list[Tensor | None] = [None] * len(tensors)
        return (*((of_value, of_context) if inputs else none[:2]), *(of_weights or none[2:]))

    def through_map(self, plan: Plan, grads: Sequence[Tensor], out: Tensor, states: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The cotangent of value as if the map's parameters were constants."""
        return self._pull(plan, grads, out, states, tensors, False, False)[0]

    def _pull(
        self, plan: Plan, grads: Sequence[Tensor], out: Tensor, states: Tensor, tensors: Sequence[Tensor], inputs: bool, weights: bool
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        value, context, *numbers = tensors
        rows = grads[1].numel()
        of_value, of_context = torch.empty_like(value), torch.empty_like(context)
        of_weights = [torch.empty_like(weight) if rows else torch.zeros_like(weight) for weight in numbers] if weights else []
        if rows:
            given: tuple[Any, ...] = (*grads, value, context, _Addresses(numbers), plan.numbers, out, states, of_value, of_context, _Addresses(of_weights))
            work = 2 * rows * plan.operations // _OPERATIONS
            library.call(f"conditioned_{self.map.symbol}_backward", given, (rows, int(inputs)), work, *plan.constants)
        return of_value, of_context, of_weights


class _Addresses:
    """Where tensors lie, for C++; null if there are none."""

    __slots__ = ("_list",)

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._list = array("q", [tensor.data_ptr() for tensor in tensors])

    def data_ptr(self) -> int:
        return self._list.buffer_info()[0] if self._list else 0
