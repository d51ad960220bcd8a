"""The affine map with a bounded log-scale as an op: a reference and a fused kernel.

Parameters (*S, 2) are shift and raw; the log-scale is bound tanh(raw / bound).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu import library
from flowkit.kernels.op import Fused, Op
from flowkit.kernels.scalar_map import scalar_map

MOST_BOUND = 80.0  # the kernel's exp stops at exp(+-87) in float32


def reference(value: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """value (*S), params (*S, 2) -> value exp(a) + shift and its log-slope a, both (*S)."""
    shift, raw = params.unbind(-1)
    log_scale = bound * torch.tanh(raw / bound)
    return value * torch.exp(log_scale) + shift, log_scale


def inverse_reference(value: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``reference``: (value - shift) exp(-a) and -a."""
    shift, raw = params.unbind(-1)
    log_scale = bound * torch.tanh(raw / bound)
    return (value - shift) * torch.exp(-log_scale), -log_scale


def _forward(inverse: bool, value: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    out, log_slope = torch.empty_like(value), torch.empty_like(value)
    library.call("affine", (value, params, out, log_slope), value.numel(), params.numel(), float(bound), int(inverse))
    return out, log_slope


def _backward(inverse: bool, grad_out: Tensor, grad_slope: Tensor, value: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    grad_value, grad_params = torch.empty_like(value), torch.empty_like(params)
    tensors = (grad_out, grad_slope, value, params, grad_value, grad_params)
    library.call("affine_backward", tensors, value.numel(), params.numel(), float(bound), int(inverse))
    return grad_value, grad_params


def _supports(value: Tensor, params: Tensor, bound: float) -> str | None:
    if not bound <= MOST_BOUND:
        return f"the bound {bound} is above {MOST_BOUND}"
    if params.shape != (*value.shape, 2):
        return f"parameters {tuple(params.shape)} do not belong to values {tuple(value.shape)} one by one"
    return None


def _examples(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(0)
    for label, bound in (("default", 5.0), ("narrow", 0.5)):
        value, params = (torch.randn(rows, 3, *more, generator=generator, dtype=torch.float64) for more in ((), (2,)))
        yield label, (value, params, bound)


bounded_affine, inverse_bounded_affine = (
    Op(
        name,
        plain,
        fused_gpu=None,
        fused_cpu=Fused(scalar_map(name, "float bound", plain, partial(_forward, inverse), partial(_backward, inverse)), library.unavailable, library.describe),
        supports=_supports,
        examples=_examples,
    )
    for name, plain, inverse in (("bounded_affine", reference, False), ("inverse_bounded_affine", inverse_reference, True))
)
