"""The way past torch's operator machinery for plain eager calls, where that machinery costs more than a small kernel.

An operator's call takes tens of microseconds more than its kernel, with gradients more than a hundred. Whatever has to see the
operator gets it: the compiler, dispatch modes, tensor subclasses, transforms, and a backward that is differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Kernel = Callable[..., Pair]
_PLAIN = (Tensor, torch.nn.Parameter)


def with_shortcut(operator: Any, backward_operator: Any, forward: Mapping[str, Kernel], backward: Mapping[str, Kernel]) -> Callable[..., Pair]:
    """``operator`` for (value, params, *constants), by its kernels where nothing has to see the operator.

    Args:
        operator, backward_operator: of torch; the first's formula for gradients is the second.
        forward, backward: kernels for contiguous tensors, by kind of device.
    """

    class FlowkitKernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor, params: Tensor, *constants: Any) -> Pair:
            ctx.save_for_backward(value, params)
            ctx.constants = constants
            return forward[value.device.type](value.contiguous(), params.contiguous(), *constants)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
            value, params = ctx.saved_tensors
            if torch.is_grad_enabled() or _watched((*grads, value, params)):
                found = backward_operator(*grads, value, params, *ctx.constants)
            else:
                tensors = (tensor.contiguous() for tensor in (*grads, value, params))
                found = backward[value.device.type](*tensors, *ctx.constants)
            return (*found, *(None for _ in ctx.constants))

    def call(value: Tensor, params: Tensor, *constants: Any) -> Pair:
        if _watched((value, params)):
            return operator(value, params, *constants)
        if torch.is_grad_enabled() and (value.requires_grad or params.requires_grad):
            return FlowkitKernel.apply(value, params, *constants)
        return forward[value.device.type](value.contiguous(), params.contiguous(), *constants)

    return call


def _watched(tensors: tuple[Tensor, ...]) -> bool:
    """Whether something has to see the operator."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        or any(type(tensor) not in _PLAIN or not torch._C._has_storage(tensor) for tensor in tensors)  # batched gradients have none
        or any(tensor.is_neg() or tensor._is_zerotensor() for tensor in tensors[:2])  # memory that does not say all, or none; weights are not
    )
