"""Fused scalar maps as ops: value (*B, *event), parameters (*B, *event, P) -> mapped value (*B, *event) and log_det (*B).

Each is an operator of torch, ``flowkit::name``, whose backward is an operator too, so that torch.compile and opcheck see both. The
backward's own derivative, which double backward needs, is that of the reference. An additional leading axis of all tensors is a
batch axis, which is all vmap needs.

The constants of a map are followed by ``event_dims`` and ``base``, as in ``tally``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from flowkit.core.tally import BASES, tally
from flowkit.kernels._shortcut import with_shortcut
from flowkit.kernels.op import Fused, Op

Pair = tuple[Tensor, Tensor]


class Kernels(Protocol):
    """The kernels of a map on one kind of device; tensors are contiguous."""

    def forward(self, inverse: bool, value: Tensor, params: Tensor, *constants: Any) -> Pair:
        """The map or its inverse: (out, log_det)."""

    def backward(self, inverse: bool, grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, *constants: Any) -> Pair:
        """Cotangents of value and params, from those of (out, log_det)."""

    def fused(self, call: Callable[..., Any]) -> Fused:
        """How the dispatch sees the operator ``call`` that these kernels serve."""


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
) -> tuple[Op, Op]:
    """The ops ``name`` and ``inverse_name``.

    Args:
        name: of the forward op.
        schema: of the map's constants, such as ``"int bins, float low, "``, with a comma at the end.
        maps: forward and inverse in plain torch, elementwise: (value, params, *constants) -> (out, log_slope).
        cpu, gpu: the kernels.
        count: (*constants) -> how many parameters an element has.
        limits: (*constants) -> why no kernel can take them, or None.
        examples: (rows) -> labelled (value, params, *constants), without ``event_dims`` and ``base``; one axis after the rows at least.
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
        call = _operators(full, schema + "int event_dims, str base", reference, {"cpu": cpu, "cuda": gpu}, bool(inverse))
        fused_gpu, fused_cpu = (kernels.fused(call) if kernels else None for kernels in (gpu, cpu))
        made.append(Op(full, reference, fused_gpu, fused_cpu, supports, judged))
    return made[0], made[1]


def _summed(plain: Callable[..., Pair]) -> Callable[..., Pair]:
    def reference(value: Tensor, params: Tensor, *constants: Any) -> Pair:
        return tally(*plain(value, params, *constants[:-2]), *constants[-2:])

    reference.__doc__ = f"{plain.__doc__} Then ``tally``."
    return reference


def _operators(name: str, constants: str, reference: Callable[..., Pair], devices: dict[str, Kernels | None], inverse: bool) -> Any:
    """Register ``flowkit::name`` and ``flowkit::name_backward``."""
    forward = {device: partial(kernels.forward, inverse) for device, kernels in devices.items() if kernels}
    backward = {device: partial(kernels.backward, inverse) for device, kernels in devices.items() if kernels}

    def shapes(value: Tensor, params: Tensor, *given: Any) -> Pair:
        batch = value.shape[: value.dim() - given[-2]]
        return value.new_empty(value.shape), value.new_empty(batch, dtype=torch.promote_types(value.dtype, torch.float32))

    def gradient_shapes(grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, *given: Any) -> Pair:
        return value.new_empty(value.shape), params.new_empty(params.shape)

    operator = _register(name, f"(Tensor value, Tensor params, {constants}) -> (Tensor, Tensor)", forward, 2, shapes)
    schema = f"(Tensor grad_out, Tensor grad_log_det, Tensor value, Tensor params, {constants}) -> (Tensor, Tensor)"
    back = _register(f"{name}_backward", schema, backward, 4, gradient_shapes)

    def keep(count: int) -> Callable[..., None]:
        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:count])
            ctx.constants = inputs[count:]

        return setup

    def differentiate(ctx: Any, grad_out: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:
        return (*back(grad_out, grad_log_det, *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants))

    def differentiate_twice(ctx: Any, of_value: Tensor, of_params: Tensor) -> tuple[Any, ...]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # views: a cotangent that depends on the value through the graph must not be followed there
            tensors = [tensor.view_as(tensor) if again and tensor.requires_grad else tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            grad_out, grad_log_det, value, params = tensors
            first = torch.autograd.grad(reference(value, params, *ctx.constants), (value, params), (grad_out, grad_log_det), create_graph=True)
            found = torch.autograd.grad(first, tensors, (of_value, of_params), create_graph=again, allow_unused=True)
        return (*found, *(None for _ in ctx.constants))

    operator.register_autograd(differentiate, setup_context=keep(2))
    back.register_autograd(differentiate_twice, setup_context=keep(4))
    return with_shortcut(operator, back, forward, backward)


def _register(name: str, schema: str, kernels: Mapping[str, Callable[..., Pair]], count: int, fake: Callable[..., Pair]) -> Any:
    """An operator of ``count`` tensors and some constants."""

    def contiguous(kernel: Callable[..., Pair]) -> Callable[..., Pair]:
        return lambda *args: kernel(*(tensor.contiguous() for tensor in args[:count]), *args[count:])

    def batched(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Pair, tuple[int, int]]:
        moved = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(args[:count], dims[:count], strict=True)
        ]
        return operator(*moved, *args[count:]), (0, 0)

    device, first = next(iter(kernels.items()))
    operator = torch.library.custom_op(f"flowkit::{name}", contiguous(first), mutates_args=(), device_types=device, schema=schema)
    for other, kernel in kernels.items():
        if other != device:
            operator.register_kernel(other, contiguous(kernel))
    operator.register_fake(fake)
    operator.register_vmap(batched)
    return operator
