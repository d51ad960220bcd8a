"""Fused scalar maps as operators of torch: value (*S), parameters (*S, P) -> mapped value and log-slope, both (*S).

The operator's backward is an operator too, so that torch.compile and opcheck see both. Its own derivative, which double backward
needs, is that of the reference. An additional leading axis of all tensors is a batch axis, which is all vmap needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def scalar_map(name: str, constants: str, reference: Callable[..., Pair], forward: Callable[..., Pair], backward: Callable[..., Pair]) -> Callable[..., Pair]:
    """Register ``flowkit::name`` and ``flowkit::name_backward`` for CPU tensors of one floating dtype.

    Args:
        name: of the operator.
        constants: the schema of what follows value and params, such as ``"int bins, float low"``.
        reference: differentiable, (value, params, *constants) -> (out, log_slope).
        forward: the kernel, on contiguous tensors.
        backward: the kernel, on contiguous tensors: (grad_out, grad_slope, value, params, *constants) -> (grad_value, grad_params).
    """
    operator = _register(name, f"(Tensor value, Tensor params, {constants}) -> (Tensor, Tensor)", forward, 2, lambda value, params: (value, value))
    schema = f"(Tensor grad_out, Tensor grad_slope, Tensor value, Tensor params, {constants}) -> (Tensor, Tensor)"
    back = _register(f"{name}_backward", schema, backward, 4, lambda grad_out, grad_slope, value, params: (value, params))

    def keep(count: int) -> Callable[..., None]:
        def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:count])
            ctx.constants = inputs[count:]

        return setup

    def differentiate(ctx: Any, grad_out: Tensor, grad_slope: Tensor) -> tuple[Any, ...]:
        return (*back(grad_out, grad_slope, *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants))

    def differentiate_twice(ctx: Any, of_value: Tensor, of_params: Tensor) -> tuple[Any, ...]:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # views: a cotangent that depends on the value through the graph must not be followed there
            tensors = [tensor.view_as(tensor) if again and tensor.requires_grad else tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            grad_out, grad_slope, value, params = tensors
            first = torch.autograd.grad(reference(value, params, *ctx.constants), (value, params), (grad_out, grad_slope), create_graph=True)
            found = torch.autograd.grad(first, tensors, (of_value, of_params), create_graph=again, allow_unused=True)
        return (*found, *(None for _ in ctx.constants))

    operator.register_autograd(differentiate, setup_context=keep(2))
    back.register_autograd(differentiate_twice, setup_context=keep(4))
    return operator


def _register(name: str, schema: str, kernel: Callable[..., Pair], count: int, like: Callable[..., Pair]) -> Any:
    """An operator of ``count`` tensors and some constants, whose two outputs have the shapes of two of the tensors."""

    def run(*args: Any) -> Pair:
        return kernel(*(tensor.contiguous() for tensor in args[:count]), *args[count:])

    def fake(*args: Any) -> Pair:
        first, second = like(*args[:count])
        return first.new_empty(first.shape), second.new_empty(second.shape)

    def batched(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Pair, tuple[int, int]]:
        moved = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(args[:count], dims[:count], strict=True)
        ]
        return operator(*moved, *args[count:]), (0, 0)

    operator = torch.library.custom_op(f"flowkit::{name}", run, mutates_args=(), device_types="cpu", schema=schema)
    operator.register_fake(fake)
    operator.register_vmap(batched)
    return operator
