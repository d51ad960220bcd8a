"""Fused scalar maps as ops: value (*B, *event), parameters (*B, *event, P) -> mapped value (*B, *event) and log_det (*B).

The constants of a map are followed by ``event_dims`` and ``base``, as in ``tally``. An additional leading axis of all tensors is a
batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from flowkit.core.tally import BASES, tally
from flowkit.kernels.conditioned import ConditionedOp
from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.op import Fused, Op
from flowkit.kernels.operators import Pair, operators
from flowkit.kernels.stepped import SteppedOp


class Kernels(Protocol):
    """The kernels of a map on one kind of device; tensors are contiguous."""

    def forward(self, inverse: bool, value: Tensor, params: Tensor, *constants: Any) -> Pair:
        """The map or its inverse: (out, log_det)."""

    def backward(self, inverse: bool, grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, *constants: Any) -> Pair:
        """Cotangents of value and params, from those of (out, log_det)."""

    def fused(self, call: Callable[..., Any]) -> Fused:
        """How the dispatch sees the operator ``call`` that these kernels serve."""


class ScalarOp(Op):
    """The op of a scalar map.

    Attributes:
        conditioned: the op of a whole layer over the map, if there is one.
        stepped: the op of a layer whose coordinates become known level by level, if there is one.
    """

    conditioned: ConditionedOp | None = None
    stepped: SteppedOp | None = None


def scalar_ops(
    name: str,
    schema: str,
    maps: tuple[Callable[..., Pair], Callable[..., Pair]],
    *,
    cpu: Kernels | None,
    gpu: Kernels | None = None,
    count: Callable[..., int],
    limits: Callable[..., str | None] = lambda *constants: None,
    examples: Callable[..., Iterator[tuple[str, tuple[Any, ...]]]],
    iterative: bool = False,
) -> tuple[ScalarOp, ScalarOp]:
    """The ops ``name`` and ``inverse_name``.

    Args:
        name: of the forward op.
        schema: of the map's constants, such as ``"int bins, float low, "``, with a comma at the end.
        maps: forward and inverse in plain torch, elementwise: (value, params, *constants) -> (out, log_slope).
        cpu, gpu: the kernels.
        count: (*constants) -> how many parameters an element has.
        limits: (*constants) -> why no kernel can take them, or None.
        examples: (rows) -> labelled (value, params, *constants), without ``event_dims`` and ``base``; one axis after the rows at least.
        iterative: whether the inverse has no closed form; then whoever calls it has to look for roots that were not found.
    """

    def supports(value: Tensor, params: Tensor, *constants: Any) -> str | None:
        if constants[-1] not in BASES:
            return f"there is no base {constants[-1]!r}"  # the reference raises
        if params.shape != (*value.shape, count(*constants[:-2])):
            return f"parameters {tuple(params.shape)} do not belong to values {tuple(value.shape)} one by one"
        return limits(*constants[:-2])

    def judged(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, (label, args) in enumerate(examples(rows)):
            yield label, (*args, 1, "none")
            if number == 0:
                yield f"{label}_elementwise", (*args, 0, "none")
                yield f"{label}_normal", (*args, 1, "normal")

    made = []
    for inverse, plain in enumerate(maps):
        full = f"inverse_{name}" if inverse else name
        reference = _summed(plain)
        served = {device: kernels for device, kernels in (("cpu", cpu), ("cuda", gpu)) if kernels}
        forward = {device: partial(kernels.forward, bool(inverse)) for device, kernels in served.items()}
        backward = {device: partial(kernels.backward, bool(inverse)) for device, kernels in served.items()}
        call = operators(full, schema + "int event_dims, str base", reference, forward, backward)
        fused_gpu, fused_cpu = (kernels.fused(call) if kernels else None for kernels in (gpu, cpu))
        op = ScalarOp(full, reference, fused_gpu, fused_cpu, supports, judged)
        if isinstance(cpu, CpuScalarMap) and not (inverse and iterative):
            op.conditioned = ConditionedOp(op, cpu, bool(inverse), count, limits, examples)
            op.stepped = SteppedOp(op, cpu, count, limits) if inverse else None
        made.append(op)
    return made[0], made[1]


def _summed(plain: Callable[..., Pair]) -> Callable[..., Pair]:
    def reference(value: Tensor, params: Tensor, *constants: Any) -> Pair:
        return tally(*plain(value, params, *constants[:-2]), *constants[-2:])

    reference.__doc__ = f"{plain.__doc__} Then ``tally``."
    return reference
