"""log det(I + J) of a residual map: exactly, by a truncated series, or by an unbiased estimate of the whole series."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.numerics.traces import log_det_matrix_series, log_det_series, orthogonal_probes, pullback

Function = Callable[[Tensor], Tensor]
Kind = Literal["exact", "power_series", "roulette"]
Lengths = Literal["geometric", "poisson"]
Gradient = Literal["neumann", "series"]


@dataclass(frozen=True)
class SeriesOptions:
    """How the series is cut and its traces are taken; the arguments of ``ResidualOf`` of the same names."""

    terms: int
    probes: int
    lengths: Lengths
    rate: float
    gradient: Gradient

    def weights(self, kind: Kind, generator: torch.Generator | None) -> list[float]:
        """w_1 .. w_n of the terms to sum: ones, and for the roulette 1 / P(N >= k) for N terms beyond the first ones."""
        if kind == "power_series":
            return [1.0] * self.terms
        extra = self._draw(generator)
        return [1.0] * self.terms + [1 / self.survival(k) for k in range(1, extra + 1)]

    def _draw(self, generator: torch.Generator | None) -> int:
        where = torch.device("cpu") if generator is None else generator.device  # a draw on a GPU would have to be waited for
        if self.lengths == "geometric":
            return int(torch.empty((), dtype=torch.float64, device=where).geometric_(self.rate, generator=generator))
        return int(torch.poisson(torch.full((), self.rate, dtype=torch.float64, device=where), generator=generator))

    def survival(self, k: int) -> float:
        """P(N >= k), k >= 1."""
        if self.lengths == "geometric":
            return (1 - self.rate) ** (k - 1)
        # summed from the tail: 1 - P(N < k) would lose every digit for large k
        term, total, i = math.exp(k * math.log(self.rate) - self.rate - math.lgamma(k + 1)), 0.0, k
        while term > 1e-17 * total or i < self.rate:
            total += term
            i += 1
            term *= self.rate / i
        return total


def formed_log_det(jacobian: Tensor, terms: int | None) -> Tensor:
    """log|det(I + J)| from the full Jacobian (*B, n, n), or its series cut after ``terms``: (*B)."""
    if terms is None:
        return torch.linalg.slogdet(plus_identity(jacobian)).logabsdet
    return log_det_matrix_series(jacobian.to(torch.promote_types(jacobian.dtype, torch.float32)), terms)


def estimated_log_det(function: Function, x: Tensor, rank: int, kind: Kind, options: SeriesOptions, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """g(x) and the series with random probes; its gradient by one product with the Neumann series, or through the series.

    With ``gradient="neumann"`` the products are made without a graph and one product left' J v carries the gradient
    (Chen et al. 2019, equation 9), so what is kept for the backward pass does not grow with the number of terms.
    """
    weights = options.weights(kind, generator)
    probes = orthogonal_probes(x, rank, options.probes, generator)
    value, pull = pullback(function, x.expand(options.probes, *x.shape))
    if options.gradient == "series":
        return value[0], log_det_series(pull, probes, weights, rank)[0]
    with torch.no_grad():
        log_det, left = log_det_series(pull, probes, weights, rank)
    if not torch.is_grad_enabled():
        return value[0], log_det
    axes = tuple(range(-rank, 0))
    carrier = (pull(left) * probes).sum(dim=axes, dtype=log_det.dtype) if rank else (pull(left) * probes).to(log_det.dtype)
    carrier = _FirstOrder.apply(carrier.mean(0))  # type: ignore[no-untyped-call]
    return value[0], log_det + (carrier - carrier.detach())


def plus_identity(jacobian: Tensor) -> Tensor:
    """I + J, in float32 at least."""
    jacobian = jacobian.to(torch.promote_types(jacobian.dtype, torch.float32))
    return jacobian + torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)


class _FirstOrder(torch.autograd.Function):
    """The identity, for values whose derivative is right and whose second derivative would be silently wrong."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        refuse_second_order("ResidualOf, gradient='neumann'", "gradient='series' or log_det='exact'")
        return gradient


def refuse_second_order(who: str, remedy: str) -> None:
    """Raise in a backward pass that records a graph of itself (``create_graph=True``); torch.func always does, and is let through."""
    if torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
        raise ConfigError(f"{who}: expected a first derivative; got create_graph=True. Build with {remedy}, whose second derivatives are right.")
