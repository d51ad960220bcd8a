"""Fused kernels as operators of torch: (value, params, *constants) -> (out, log_det), the last two constants ``event_dims`` and ``base``.

An operator's backward is an operator too, so that torch.compile and opcheck see both. The backward's own derivative, which double
backward needs, is that of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels._shortcut import with_shortcut

Pair = tuple[Tensor, Tensor]
Kernel = Callable[..., Pair]
Batching = Callable[[Any, Kernel, int], Callable[..., tuple[Pair, tuple[int, int]]]]


def leading_axis(operator: Any, fake: Kernel, count: int) -> Callable[..., tuple[Pair, tuple[int, int]]]:
    """The vmap rule where an additional leading axis of all tensors is a batch axis."""

    def batched(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Pair, tuple[int, int]]:
        moved = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(args[:count], dims[:count], strict=True)
        ]
        return operator(*moved, *args[count:]), (0, 0)

    return batched


def operators(
    name: str, constants: str, reference: Kernel, forward: Mapping[str, Kernel], backward: Mapping[str, Kernel], *, batching: Batching = leading_axis
) -> Kernel:
    """Register ``flowkit::name`` and ``flowkit::name_backward``; what is returned calls them, or in plain eager use their kernels.

    Args:
        name: of the operator.
        constants: the schema of what follows value and params.
        reference: what the operator computes, in plain torch.
        forward: the kernel by kind of device, on contiguous tensors.
        backward: likewise, (grad_out, grad_log_det, value, params, *constants) -> (grad_value, grad_params).
        batching: (operator, its shapes, number of tensors) -> its vmap rule.
    """
    operator = _register(name, f"(Tensor value, Tensor params, {constants}) -> (Tensor, Tensor)", forward, 2, _shapes, batching)
    schema = f"(Tensor grad_out, Tensor grad_log_det, Tensor value, Tensor params, {constants}) -> (Tensor, Tensor)"
    back = _register(f"{name}_backward", schema, backward, 4, _gradient_shapes, batching)

    def differentiate(ctx: Any, grad_out: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:
        return (*back(grad_out, grad_log_det, *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants))

    def differentiate_twice(ctx: Any, of_value: Tensor, of_params: Tensor) -> tuple[Any, ...]:
        return (*_second(reference, ctx.saved_tensors, ctx.constants, (of_value, of_params)), *(None for _ in ctx.constants))

    operator.register_autograd(differentiate, setup_context=_keep(2))
    back.register_autograd(differentiate_twice, setup_context=_keep(4))
    return with_shortcut(operator, back, forward, backward)


def _second(reference: Kernel, saved: tuple[Tensor, ...], constants: tuple[Any, ...], cotangents: Pair) -> tuple[Tensor | None, ...]:
    """The derivative of the reference's first derivative."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # views: a cotangent that depends on the value through the graph must not be followed there
        tensors = [tensor.view_as(tensor) if again and tensor.requires_grad else tensor.detach().requires_grad_() for tensor in saved]
        grad_out, grad_log_det, value, params = tensors
        outputs = zip(reference(value, params, *constants), (grad_out, grad_log_det), strict=True)
        outs, grads = zip(*((out, grad) for out, grad in outputs if out.requires_grad), strict=True)
        first = torch.autograd.grad(outs, (value, params), grads, create_graph=True, materialize_grads=True)
        parts = [(part, of) for part, of in zip(first, cotangents, strict=True) if part.requires_grad]
        return torch.autograd.grad([part for part, _ in parts], tensors, [of for _, of in parts], create_graph=again, allow_unused=True)


def _shapes(value: Tensor, params: Tensor, *constants: Any) -> Pair:
    batch = value.shape[: value.dim() - constants[-2]]
    return value.new_empty(value.shape), value.new_empty(batch, dtype=torch.promote_types(value.dtype, torch.float32))


def _gradient_shapes(grad_out: Tensor, grad_log_det: Tensor, value: Tensor, params: Tensor, *constants: Any) -> Pair:
    return value.new_empty(value.shape), params.new_empty(params.shape)


def _keep(count: int) -> Callable[..., None]:
    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.constants = inputs[count:]

    return setup


def _register(name: str, schema: str, kernels: Mapping[str, Kernel], count: int, fake: Kernel, batching: Batching) -> Any:
    """An operator of ``count`` tensors and some constants."""

    def contiguous(kernel: Kernel) -> Kernel:
        return lambda *args: kernel(*(tensor.contiguous() for tensor in args[:count]), *args[count:])

    device, first = next(iter(kernels.items()))
    operator = torch.library.custom_op(f"flowkit::{name}", contiguous(first), mutates_args=(), device_types=device, schema=schema)
    for other, kernel in kernels.items():
        if other != device:
            operator.register_kernel(other, contiguous(kernel))
    operator.register_fake(fake)
    operator.register_vmap(batching(operator, fake, count))
    return operator
