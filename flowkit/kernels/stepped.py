"""Inverses of autoregressive layers in one call: coordinates become known level by level, and with them the units of a masked network.

In plain eager calls on a CPU that record nothing the kernel goes through all levels; everywhere else they are taken one by one, and may be
differentiated and seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.kernels._shortcut import _watched
from flowkit.kernels.cpu import library
from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.cpu.stepped import CpuStepped
from flowkit.kernels.op import Fused, Op, chosen
from flowkit.kernels.steps import Run, Stack

Pair = tuple[Tensor, Tensor]


class SteppedOp(Op):
    """The op ``stepped_NAME``: the inverse map NAME of every coordinate, whose numbers a masked network makes of those of earlier levels.

    Its arguments: x (*B, D), a ``Stack``, and the map's constants. It returns the mapped coordinates z (*B, D) and log_det (*B).

    Args:
        scalar: the op of the map.
        cpu: the map's kernels.
        count, limits: as for ``scalar_ops``.
    """

    is_operator = False  # the levels are seen one by one

    def __init__(self, scalar: Op, cpu: CpuScalarMap, count: Callable[..., int], limits: Callable[..., str | None]) -> None:
        self._scalar, self._kernel, self._count, self._limits = scalar, CpuStepped(cpu), count, limits
        fused = Fused(self._run, library.unavailable, library.describe)
        super().__init__(f"stepped_{scalar.name}", self._levels, None, fused, lambda *args: None, _examples)

    def attempt(self, x: Tensor, stack: Stack, *constants: Any) -> Pair | None:
        """What the fused kernel makes of the arguments, or None where it cannot serve."""
        return None if chosen() == "reference" or self.reason(x, stack, *constants) else self._run(x, stack, *constants)

    def reason(self, *args: Any) -> str | None:
        x, stack, *constants = args
        if torch.compiler.is_compiling():
            return "a graph is compiled, which has to see the levels"
        device, dtype = x.device, x.dtype
        if device.type != "cpu":
            return f"there is none for {device.type} tensors"
        if dtype not in (torch.float32, torch.float64):
            return f"{dtype} is not one of torch.float32, torch.float64"
        tensors = [x, *(tensor for layer in stack.layers for tensor in layer if tensor is not None)]
        tensors += () if stack.skip is None else stack.skip[:1] + stack.skip[2:3]
        recording = torch.is_grad_enabled()
        for tensor in tensors:
            if tensor.dtype is not dtype or tensor.device != device:
                return "the network's tensors differ from x in dtype or device"
            if recording and tensor.requires_grad:
                return "gradients are recorded, for which the levels are taken one by one"
        if torch.autograd.forward_ad._current_level >= 0 or torch.is_autocast_enabled("cpu") or _watched(tuple(tensors)):
            return "something has to see the levels"
        if _activation(stack.act) is None:
            return f"there is no activation {stack.act} in it"
        return _misfit(x, stack, self._count(*constants)) or self._limits(*constants) or library.unavailable()

    def _run(self, x: Tensor, stack: Stack, *constants: Any) -> Pair:
        return self._kernel(x, stack, str(_activation(stack.act)), constants)

    def _levels(self, x: Tensor, stack: Stack, *constants: Any) -> Pair:
        """The reference: one level after the other."""
        run, order = Run(stack, x), stack.steps.sorted_inputs(x.device)
        values: list[Tensor] = []
        slopes: list[Tensor] = []
        for index in order.split(stack.steps.sizes[0]):
            params = run.next(values[-1] if values else None).to(x.dtype)
            solved, log_slope = self._scalar(x.index_select(-1, index), params, *constants, 0, "none")
            values.append(solved)
            slopes.append(log_slope)
        return torch.cat(values, dim=-1).index_select(-1, order.argsort()), torch.cat(slopes, dim=-1).sum(-1)


_ACTIVATIONS = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh", nn.ELU: "elu", nn.SiLU: "silu"}


def _activation(act: Any) -> str | None:
    """The name of an activation that the kernel has, or None."""
    name = _ACTIVATIONS.get(type(act))
    if name == "leaky_relu":
        return name if act.negative_slope == 0.01 else None
    if name == "elu":
        return name if act.alpha == 1.0 else None
    return name


def _misfit(x: Tensor, stack: Stack, count: int) -> str | None:
    """Why x, the network and a map of so many numbers do not belong together, or None."""
    features, rows = sum(stack.steps.sizes[0]), x.shape[:-1].numel()
    if x.dim() == 0 or x.shape[-1] != features:
        return f"x {tuple(x.shape)} does not have {features} features"
    if stack.steps.per_input != count:
        return f"{stack.steps.per_input} outputs for each input are not {count} parameters"
    for layer in stack.layers:
        if layer.offset is not None and layer.offset.shape[0] not in (1, rows):
            return f"an offset {tuple(layer.offset.shape)} is not one of {rows} rows"
    return None


def _examples(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """None: ``check_op`` wants gradients. tests/unit/test_stepped_kernel.py judges these ops."""
    yield from ()
