"""Whole trajectories in C++: the calls of what ``mlp_trajectory.cpp`` defines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu import library
from flowkit.kernels.mlp_trajectory_methods import METHODS
from flowkit.kernels.op import Fused

ACTIVATIONS = ("tanh", "softplus", "silu", "elu", "selu", "gelu")  # in the order of C++
WIDEST = 256  # beyond it a tile's numbers leave the near caches, and torch's own products serve as well
_LONG_SOLVE = 50  # evaluations that an adaptive solve is taken to need, to judge whether threads pay
_OPERATIONS = 400  # that are worth as much as an entry in ``library.call``


def forward(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x1, log_det, stats, strides), the last (B, capacity, d + 2): t, h and state of accepted steps, for the backward.

    Args:
        x: (B, d); all tensors contiguous.
        args: the other tensors and constants of ``mlp_trajectory``, then the capacity.
    """
    weights, (_, _, method, steps, _, _, _, _, max_steps, capacity) = args[:10], args[10:]
    (batch, d), w = x.shape, weights[3].shape[0]
    x1, log_det, stats = torch.empty_like(x), x.new_empty(batch), torch.empty(batch, 4, dtype=torch.int32)
    strides = x.new_empty(batch, capacity, d + 2)
    if batch:
        tensors = (x, *weights, METHODS[method].table, x1, log_det, stats, strides)
        library.call("mlp_trajectory", tensors, _sizes(x, weights, steps, max_steps, capacity), _work(batch, d, w, method, steps), *_constants(args))
    return x1, log_det, stats, strides


def backward(grad_x: Tensor, grad_log_det: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Gradients of x and the ten weights.

    Args:
        grad_x, grad_log_det: cotangents of x1 and log_det.
        x: (B, d); all tensors contiguous.
        args: the ten weights, stats and strides, then the constants of ``mlp_trajectory``.
    """
    weights, (stats, strides), constants = args[:10], args[10:12], args[12:]
    (batch, d), w, method, steps, max_steps = x.shape, weights[3].shape[0], constants[2], constants[3], constants[8]
    shared = [weight.numel() if place != 1 or weight.dim() == 1 else w for place, weight in enumerate(weights)]
    of_x, of_b1, total = torch.empty_like(x), torch.empty_like(weights[1]), x.new_zeros(sum(shared))
    if batch:
        parts = x.new_empty((batch + _part(batch) - 1) // _part(batch), len(total))
        tensors = (x, *weights, METHODS[method].table, grad_x, grad_log_det, stats, strides, of_x, of_b1, total, parts)
        sizes = (len(total), *_sizes(x, weights, steps, max_steps, strides.shape[1]))
        library.call("mlp_trajectory_backward", tensors, sizes, 4 * _work(batch, d, w, method, steps), *_constants((*weights, *constants)))
    found = [part.view(weight.shape) if part.numel() == weight.numel() else of_b1 for part, weight in zip(total.split(shared), weights, strict=True)]
    if weights[1].dim() == 2:
        found[1] = of_b1
    return (of_x, *found)


def limits(x: Tensor, w: int) -> str | None:
    """Why the kernel cannot take these sizes, or None."""
    return f"{x.shape[1]} features or {w} units are more than {WIDEST}" if max(x.shape[1], w) > WIDEST else None


def fused(call: Any) -> Fused:
    """How the dispatch sees the operator that these kernels serve."""
    return Fused(call, library.unavailable, library.describe, frozenset((torch.float32,)))


def _part(batch: int) -> int:
    """Samples whose gradients are summed before the parts are: as in C++."""
    least = (batch + 63) // 64
    return (least + 63) // 64 * 64


def _sizes(x: Tensor, weights: tuple[Tensor, ...], steps: int, max_steps: int, kept: int) -> tuple[int, ...]:
    return (*x.shape, weights[3].shape[0], int(weights[1].dim() == 2), int(len(weights[9]) > 0), steps, max_steps, kept)


def _constants(args: tuple[Any, ...]) -> tuple[int | float, ...]:
    t0, t1, _, _, rtol, atol, activation, divergence = args[10:18]
    return ACTIVATIONS.index(activation), int(divergence), float(t0), float(t1), float(rtol), float(atol)


def _work(batch: int, d: int, w: int, method: str, steps: int) -> int:
    return batch * (steps * METHODS[method].used or _LONG_SOLVE) * 4 * w * (w + d) // _OPERATIONS
