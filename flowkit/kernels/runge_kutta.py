"""Combinations of the stages of explicit Runge-Kutta methods, for R rows that each have their own step: a reference and kernels for the GPU.

    stage   y + h sum_j w_j k_j, the point where the next stage is evaluated
    finish  y1 = y0 + h sum_j b_j k_j, and for each row the root of the mean of (|h sum_j e_j k_j| / (atol + rtol max(|y0|, |y1|)))^2

Plain torch makes a pass over memory for every stage; a kernel makes one. Where gradients are asked for the reference serves, which has
those of all tensors.

Reference: Hairer, Norsett, Wanner (1993), Solving Ordinary Differential Equations I, section II.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.gpu import runge_kutta as gpu
from flowkit.kernels.op import _CHOICE, Op

Weights = tuple[float, ...]


def stage(y: Tensor, ks: Tensor, weights: Weights, h: Tensor) -> Tensor:
    """y + h sum_j w_j k_j.

    Args:
        y: (R, N).
        ks: (S, R, N), S at least 1.
        weights: S numbers.
        h: (R), the step of each row, of either sign.

    Returns:
        (R, N).
    """
    numbers = _tensor(weights, y)
    if y.is_cuda or _CHOICE[0] == "fused":
        return runge_kutta_stage(y, ks.transpose(0, 1), h, numbers)[0]
    return _stage(y, ks, h, numbers)


def finish(y0: Tensor, ks: Tensor, b: Weights, e: Weights, h: Tensor, rtol: float, atol: float | Tensor) -> tuple[Tensor, Tensor]:
    """The end of a step and how large its error is, where 1 is just tolerated.

    Args:
        y0: (R, N).
        ks: (S, R, N), S at least 1.
        b, e: S numbers each, the weights of the step and of its error.
        h: (R), the step of each row, of either sign.
        rtol: relative tolerance.
        atol: absolute tolerance, or (N), one for each column; an infinite one leaves its column out of the mean.

    Returns:
        y1 (R, N) and error (R), 0 where no column is left.
    """
    step, wrong = _tensor(b, y0), _tensor(e, y0)
    if y0.is_cuda or _CHOICE[0] == "fused":
        tolerances = atol if isinstance(atol, Tensor) else _tensor((float(atol),), y0)
        return runge_kutta_finish(y0, ks.transpose(0, 1), h, step, wrong, tolerances, _tensor((float(rtol),), y0))
    return _finish(y0, ks, h, step, wrong, atol, rtol)


def _stage(y: Tensor, ks: Tensor, h: Tensor, weights: Tensor) -> Tensor:
    return torch.addcmul(y, _combined(ks, weights), h.unsqueeze(-1))


def _finish(y0: Tensor, ks: Tensor, h: Tensor, b: Tensor, e: Tensor, atol: float | Tensor, rtol: float | Tensor) -> tuple[Tensor, Tensor]:
    y1 = torch.addcmul(y0, _combined(ks, b), h.unsqueeze(-1))
    size = torch.maximum(y0.abs(), y1.abs())
    squares = (_combined(ks, e) / (size * rtol + atol)).square().sum(-1)
    if isinstance(atol, Tensor):
        counted = torch.isfinite(atol).expand(size.shape[-1:]).sum().clamp(min=1)
        return y1, h.abs() * (squares / counted).sqrt()
    return y1, h.abs() * (squares / max(size.shape[-1], 1)).sqrt()


def _combined(ks: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j k_j: (S, ...) -> (...). As a product with a vector: there an entry's value does not depend on where in memory it lies."""
    return torch.matmul(weights, ks.reshape(len(weights), -1)).reshape(ks.shape[1:])


def _tensor(numbers: Weights, like: Tensor) -> Tensor:
    """Numbers as a tensor, kept for the next call where that is safe: a tensor made inside a transform must not outlive it."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():
        return torch.tensor(numbers, dtype=like.dtype, device=like.device)
    return _kept(numbers, like.dtype, like.device)


@lru_cache(maxsize=256)
def _kept(numbers: Weights, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=dtype, device=device)


def _stage_of_rows(y: Tensor, ks: Tensor, h: Tensor, weights: Tensor) -> tuple[Tensor]:
    """y + h sum_j w_j k_j: y (*B, N), ks (*B, S, N), h (*B), weights (S) -> (*B, N)."""
    return (_stage(y, ks.movedim(-2, 0), h, weights),)


def _finish_of_rows(y0: Tensor, ks: Tensor, h: Tensor, b: Tensor, e: Tensor, atol: Tensor, rtol: Tensor) -> tuple[Tensor, Tensor]:
    """The end of a step and the size of its error: y0 (*B, N), ks (*B, S, N), h (*B), b and e (S), atol (N) or (1), rtol (1) -> (*B, N) and (*B)."""
    return _finish(y0, ks.movedim(-2, 0), h, b, e, atol, rtol)


def _supports(y: Tensor, ks: Tensor, h: Tensor, *rest: Any) -> str | None:
    if y.dim() != 2 or ks.dim() != 3 or h.shape != y.shape[:1] or (ks.shape[0], ks.shape[2]) != y.shape:
        return f"state {tuple(y.shape)}, stages {tuple(ks.shape)} and steps {tuple(h.shape)} are not rows of one kind"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (y, ks, h, *rest) if isinstance(tensor, Tensor)):
        return "gradients are asked for"
    return None


def _draw(rows: int, stages: int, columns: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    y, ks = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((rows, columns), (rows, stages, columns)))
    return y, ks, 0.1 + torch.rand(rows, generator=generator, dtype=torch.float64)


def _numbers(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _stage_examples(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    yield "s3", (*_draw(rows, 3, 5), _numbers(0.4, -0.9, 1.3))
    yield "s1", (*_draw(rows, 1, 3), _numbers(0.5))


def _finish_examples(rows: int = 6) -> Iterator[tuple[str, tuple[Any, ...]]]:
    weights = _numbers(0.3, 0.2, 0.5), _numbers(0.1, -0.3, 0.2)
    yield "s3", (*_draw(rows, 3, 5), *weights, _numbers(0.01), _numbers(0.1))
    yield "column_left_out", (*_draw(rows, 3, 4), *weights, _numbers(0.01, 0.1, torch.inf, 0.2), _numbers(0.1))


runge_kutta_stage = Op("runge_kutta_stage", _stage_of_rows, gpu.STAGE, None, _supports, _stage_examples)
runge_kutta_finish = Op("runge_kutta_finish", _finish_of_rows, gpu.FINISH, None, _supports, _finish_examples)
