"""Whole trajectories of velocity fields with two hidden layers: solver, exact divergence and discrete adjoint in one operation.

A kernel owns a tile of samples for the whole solve: weights stay in the nearest memory, each sample has its own time and step size, and
the backward takes the accepted steps back one by one. Second derivatives go through the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels._shortcut import _watched
from flowkit.kernels.cpu import trajectory as cpu
from flowkit.kernels.gpu import mlp_trajectory as gpu
from flowkit.kernels.mlp_trajectory_methods import METHODS
from flowkit.kernels.mlp_trajectory_reference import CURVES, Trajectory, reference
from flowkit.kernels.op import Op

__all__ = ["mlp_trajectory"]
TENSORS = 11  # x and the ten weights
MOST_ADAPTIVE = 48  # steps of a sample that are kept for the backward; where one takes more, they are taken anew
KEPT_BYTES = 2**28  # memory for them at most
_NAMES = ("x", "W1", "b1", "r1", "W2", "b2", "r2", "W3", "b3", "r3", "gates")
_SCHEMA = ", ".join(f"Tensor {name}" for name in _NAMES)
_CONSTANTS = "float t0, float t1, str method, int steps, float rtol, float atol, str activation, bool divergence, int max_steps"


_KERNELS: dict[str, Any] = {"cpu": cpu, "cuda": gpu}


def _contiguous(kernel: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    return kernel(*(arg.contiguous() if isinstance(arg, Tensor) else arg for arg in args))


def _apart(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward with gradients in memory of their own, as an operator owes."""
    return lambda *args: tuple(part.clone(memory_format=torch.contiguous_format) for part in backward(*args))


def _operator(name: str, schema: str, kernels: dict[str, Callable[..., Any]]) -> Any:
    """An operator of contiguous tensors, by kind of device."""
    made: Any = torch.library.custom_op(name, lambda *args: _contiguous(kernels["cpu"], args), mutates_args=(), device_types="cpu", schema=schema)
    made.register_kernel("cuda", lambda *args: _contiguous(kernels["cuda"], args))
    return made


def _shapes(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    batch, d = x.shape
    return x.new_empty(x.shape), x.new_empty(batch), x.new_empty(batch, 4, dtype=torch.int32), x.new_empty(batch, args[-1], d + 2)


def _gradient_shapes(grad_x: Tensor, grad_log_det: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in args[:TENSORS])


_FORWARD_SCHEMA = f"({_SCHEMA}, {_CONSTANTS}, int capacity) -> (Tensor, Tensor, Tensor, Tensor)"
_BACKWARD_SCHEMA = f"(Tensor grad_x, Tensor grad_log_det, {_SCHEMA}, Tensor stats, Tensor strides, {_CONSTANTS}) -> ({', '.join(['Tensor'] * TENSORS)})"
_OPERATOR = _operator("flowkit::mlp_trajectory", _FORWARD_SCHEMA, {device: kernels.forward for device, kernels in _KERNELS.items()})
_BACKWARD = _operator("flowkit::mlp_trajectory_backward", _BACKWARD_SCHEMA, {device: _apart(kernels.backward) for device, kernels in _KERNELS.items()})
_OPERATOR.register_fake(_shapes)
_BACKWARD.register_fake(_gradient_shapes)


def _one_by_one(operator: Any) -> Callable[..., Any]:
    """The vmap rule, which batched gradients need: a call for each entry of the mapped axis."""

    def batched(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        calls = [[arg if dim is None else arg.select(dim, i) for arg, dim in zip(args, dims, strict=True)] for i in range(info.batch_size)]
        outputs = [torch.stack(parts) for parts in zip(*(operator(*call) for call in calls), strict=True)]
        return tuple(outputs), (0,) * len(outputs)

    return batched


_OPERATOR.register_vmap(_one_by_one(_OPERATOR))
_BACKWARD.register_vmap(_one_by_one(_BACKWARD))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:TENSORS], *output[2:])
    ctx.constants = inputs[TENSORS:-1]
    ctx.mark_non_differentiable(*output[2:])


def _differentiate(ctx: Any, grad_x: Tensor, grad_log_det: Tensor, *_: Any) -> tuple[Any, ...]:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _differentiate_again(ctx, grad_x, grad_log_det)
    return (*_BACKWARD(grad_x, grad_log_det, *ctx.saved_tensors, *ctx.constants), *(None for _ in ctx.constants), None)


def _differentiate_again(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    """Gradients that have gradients themselves, through the reference: the kernel's adjoint is differentiable once."""
    tensors = ctx.saved_tensors[:TENSORS]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(reference(*tensors, *ctx.constants)[:2], wanted, grads, create_graph=True, materialize_grads=True))
    return (*(next(found) if tensor.requires_grad else None for tensor in tensors), *(None for _ in ctx.constants), None)


_OPERATOR.register_autograd(_differentiate, setup_context=_keep)


class _Eager(torch.autograd.Function):
    """The operator without torch's operator machinery, where nothing has to see it."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        output = _contiguous(_KERNELS[args[0].device.type].forward, args)
        _keep(ctx, args, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled() or _watched((*grads[:2], *ctx.saved_tensors)):
            return _differentiate(ctx, *grads)
        found = _contiguous(_KERNELS[grads[0].device.type].backward, (*grads[:2], *ctx.saved_tensors, *ctx.constants))
        return (*found, *(None for _ in ctx.constants), None)


def capacity(batch: int, d: int, steps: int) -> int:
    """Accepted steps of a sample to keep for the backward."""
    return min(steps or MOST_ADAPTIVE, KEPT_BYTES // (4 * max(1, batch) * (d + 2)))


def _call(*args: Any) -> Trajectory:
    tensors, steps = args[:TENSORS], args[TENSORS + 3]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    kept = capacity(len(tensors[0]), tensors[0].shape[1], steps) if wanted else 0
    if _watched(tensors):
        found = _OPERATOR(*args, kept)
    elif wanted:
        found = _Eager.apply(*args, kept)
    else:
        found = _contiguous(_KERNELS[tensors[0].device.type].forward, (*args, kept))
    return found[0], found[1], found[2]


def _supports(*args: Any) -> str | None:
    tensors, (_, _, method, steps, _, _, activation, _, _) = args[:TENSORS], args[TENSORS:]
    x, w = tensors[0], tensors[4].shape[0]
    if method not in METHODS or activation not in CURVES or not (steps > 0 or (steps == 0 and METHODS[method].e)):
        return f"there is no {method!r} with {steps} steps and {activation!r}"  # the reference raises
    if x.dim() != 2:
        return f"x {tuple(x.shape)} is not (B, d)"
    d = x.shape[1]
    wanted = [(w, d), (w,), (w,), (w, w), (w,), (w,), (d, w), (d,), (d,), (2 * w + d, 2)]
    for name, tensor, shape in zip(_NAMES[1:], tensors[1:], wanted, strict=True):
        if tensor.shape != shape and not (name == "b1" and tensor.shape == (x.shape[0], w)) and not (name == "gates" and tensor.shape == (0, 2)):
            return f"{name} {tuple(tensor.shape)} is not {shape}"
    return (gpu if x.is_cuda else cpu).limits(x, w)


def _examples(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """None: ``check_op`` wants float64 kernels and gradients of gradients. tests/oracles/test_mlp_trajectory.py judges this op."""
    yield from ()


mlp_trajectory = Op("mlp_trajectory", reference, gpu.fused(_call), cpu.fused(_call), _supports, _examples)
