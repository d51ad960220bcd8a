"""Jacobians, and traces of functions of Jacobians, from products with vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from flowkit.core.checks import runs_eagerly
from flowkit.core.errors import ConfigError

Product = Callable[[Tensor], Tensor]


class Pull(Protocol):
    """v -> J'v; with ``batched`` for several v along a new first axis."""

    def __call__(self, v: Tensor, batched: bool = False) -> Tensor: ...


def pullback(function: Product, x: Tensor) -> tuple[Tensor, Pull]:
    """function(x) and the products of its transposed Jacobian with vectors, recorded for differentiation where grad mode is on.

    Plain autograd where it can serve, so that saved-tensor hooks and activation checkpointing, which torch.func refuses, work.
    """
    if not runs_eagerly() or torch.is_inference_mode_enabled():
        value, product, *_ = torch.func.vjp(function, x)

        def transformed(v: Tensor, batched: bool = False) -> Tensor:
            pulled: Tensor = (torch.func.vmap(product)(v) if batched else product(v))[0]
            return pulled

        return value, transformed
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        point = x if recording and x.requires_grad else x.detach().requires_grad_()
        value = function(point)

    def pull(v: Tensor, batched: bool = False) -> Tensor:
        if not value.requires_grad:  # the function does not depend on x, nor on any parameter
            return torch.zeros_like(v)
        graph = torch.is_grad_enabled()
        return torch.autograd.grad(value, point, v, retain_graph=True, create_graph=graph, is_grads_batched=batched, materialize_grads=True)[0]

    return value if recording else value.detach(), pull


def value_and_jacobian(function: Product, x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A batched function and its Jacobian, events flattened, from one pass and n products with vectors; differentiable.

    Args:
        function: (*B, *event) -> (*B, *event), events independent of each other.
        x: (*B, *event); rank: number of event axes.

    Returns:
        function(x) (*B, *event) and d function / dx (*B, n, n).
    """
    batch, event = x.shape[: x.dim() - rank], x.shape[x.dim() - rank :]
    size = event.numel()
    basis = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *([1] * len(batch)), *event).expand(size, *x.shape)
    value, pull = pullback(function, x)
    rows = pull(basis, True)
    return value, rows.reshape(size, *batch, size).movedim(0, -2)


def orthogonal_probes(x: Tensor, rank: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Random directions v with E[v v'] = I, those of one event orthogonal, each of length sqrt(n): (count, *B, *event).

    With count = n their average of v' A v is the trace of A itself.
    """
    batch, size = x.shape[: x.dim() - rank], x.shape[x.dim() - rank :].numel()
    if not 1 <= count <= size:
        raise ConfigError(f"orthogonal_probes: expected count in 1 .. {size}, the size of an event; got {count}.")
    dtype = torch.promote_types(x.dtype, torch.float32)
    normal = torch.randn((*batch, size, count), dtype=dtype, device=x.device, generator=generator)
    frame = normal / torch.linalg.vector_norm(normal, dim=-2, keepdim=True) if count == 1 else torch.linalg.qr(normal).Q
    return (math.sqrt(size) * frame).movedim(-1, 0).reshape(count, *x.shape).to(x.dtype)


def powers(product: Product, probes: Tensor, terms: int) -> Iterator[Tensor]:
    """v, J'v, J'J'v, ...: terms + 1 tensors, made one at a time."""
    yield probes
    for _ in range(terms):
        probes = product(probes)
        yield probes


def log_det_series(product: Product, probes: Tensor, weights: Sequence[float], rank: int) -> tuple[Tensor, Tensor]:
    """The series of log det(I + J) and that of its gradient, from the same products.

        value  = mean over v of  sum_{k=1}^n  w_k (-1)^{k+1} / k  v' J^k v
        left   =                 sum_{k=0}^{n-1} w_{k+1} (-1)^k (J')^k v

    With E[v v'] = I and E[w_k 1{n >= k}] = 1 they are unbiased: E[value] = log det(I + J), and E[left' dJ v] is its differential
    tr((I + J)^{-1} dJ).

    Args:
        product: v -> J'v, (S, *B, *event) -> the same.
        probes: v (S, *B, *event); rank: number of event axes.
        weights: w_1 .. w_n.

    Returns:
        value (*B), float32 at least, and left (S, *B, *event).
    """
    axes = tuple(range(-rank, 0))
    dtype = torch.promote_types(probes.dtype, torch.float32)
    value, left = probes.new_zeros(probes.shape[1 : probes.dim() - rank], dtype=dtype), torch.zeros_like(probes)
    for k, (power, following) in enumerate(itertools.pairwise(powers(product, probes, len(weights)))):
        left = left + weights[k] * (-1) ** k * power
        trace = (following * probes).sum(dim=axes, dtype=dtype).mean(0) if rank else (following * probes).to(dtype).mean(0)
        value = value + weights[k] * (-1) ** k / (k + 1) * trace
    return value, left


def log_det_matrix_series(jacobian: Tensor, terms: int) -> Tensor:
    """The first terms of log det(I + J) = tr J - tr J^2 / 2 + tr J^3 / 3 - ... by matrix products: (*B, n, n) -> (*B)."""
    power, total = jacobian, _trace(jacobian)
    for k in range(2, terms + 1):
        power = power @ jacobian
        total = total + (-1) ** (k + 1) / k * _trace(power)
    return total


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
