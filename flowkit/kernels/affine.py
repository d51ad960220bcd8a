"""The affine map without a limit on its scale as an op: a reference and a fused kernel.

Parameters (*S, 2) are shift and log-scale. A scale that overflows is infinite, one that underflows is 0, as ``torch.exp`` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.kernels.cpu.scalar_map import CpuScalarMap
from flowkit.kernels.gpu import maps
from flowkit.kernels.scalar_map import scalar_ops


def forward(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """value (*S), params (*S, 2) -> value exp(a) + shift and its log-slope a, both (*S)."""
    shift, log_scale = params.unbind(-1)
    return value * torch.exp(log_scale) + shift, log_scale


def inverse(value: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of ``forward``: (value - shift) exp(-a) and -a."""
    shift, log_scale = params.unbind(-1)
    return (value - shift) * torch.exp(-log_scale), -log_scale


def _examples(rows: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    generator = torch.Generator().manual_seed(0)
    for label, spread in (("default", 1.0), ("wide", 3.0)):
        value, params = (torch.randn(rows, 3, *more, generator=generator, dtype=torch.float64) for more in ((), (2,)))
        yield label, (value, spread * params)


affine, inverse_affine = scalar_ops(
    "affine",
    "",
    (forward, inverse),
    cpu=CpuScalarMap("affine", lambda: (0,)),
    gpu=maps.AFFINE,
    count=lambda: 2,
    examples=_examples,
)
