"""The affine map with a bounded log-scale as an op: a reference and a fused kernel.

Parameters (*S, 2) are shift and raw; the log-scale is bound tanh(raw / bound).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.gpu import maps
from flowkit.kernels.scalar_map import scalar_ops

MOST_BOUND = 80.0  # the kernel's exp stops at exp(+-87) in float32


def forward(value: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """value (*S), params (*S, 2) -> value exp(a) + shift and its log-slope a, both (*S)."""
    shift, raw = params.unbind(-1)
    log_scale = bound * torch.tanh(raw / bound)
    return value * torch.exp(log_scale) + shift, log_scale


def inverse(value: Tensor, params: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: (value - shift) exp(-a) and -a."""
    shift, raw = params.unbind(-1)
    log_scale = bound * torch.tanh(raw / bound)
    return (value - shift) * torch.exp(-log_scale), -log_scale


def _limits(bound: float) -> str | None:
    return None if bound <= MOST_BOUND else f"the bound {bound} is above {MOST_BOUND}"


def _examples(rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(0)
    for label, bound in (("default", 5.0), ("narrow", 0.5)):
        value, params = (torch.randn(rows, 3, *more, generator=generator, dtype=torch.float64) for more in ((), (2,)))
        yield label, (value, params, bound)


bounded_affine, inverse_bounded_affine = scalar_ops(
    "bounded_affine",
    "float bound, ",
    (forward, inverse),
    cpu=CpuScalarMap("bounded_affine", lambda bound: (float(bound),)),
    gpu=maps.BOUNDED_AFFINE,
    count=lambda bound: 2,
    limits=_limits,
    examples=_examples,
)
