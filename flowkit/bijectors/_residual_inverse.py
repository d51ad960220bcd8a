"""The inverse of x = z + g(z): a fixed point, and its gradient by the implicit function theorem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._residual_log_det import Function, plus_identity, refuse_second_order
from flowkit.core.shapes import mask_event
from flowkit.numerics.fixed_point import FixedPoint, solve_fixed_point
from flowkit.numerics.traces import Pull, pullback, value_and_jacobian


def solve_residual(function: Function, x: Tensor, rank: int, tolerance: float, max_iterations: int) -> tuple[Tensor, FixedPoint]:
    """z with z + g(z) = x, without a graph; the residual is relative to max(1, |x|, |z|)."""
    x = x.detach()
    return solve_fixed_point(lambda z: x - function(z), x, rank, scale=largest(x, rank).clamp(min=1), tolerance=tolerance, max_iterations=max_iterations)


def newton_steps(function: Function, z: Tensor, x: Tensor, rank: int) -> Tensor:
    """Two Newton steps with a graph: they polish the root and give it exact first and second derivatives."""
    for _ in range(2):
        value, jacobian = value_and_jacobian(function, z, rank)
        matrix = plus_identity(jacobian)
        gap = (x - z - value).reshape(*matrix.shape[:-1], 1).to(matrix.dtype)
        z = z + torch.linalg.solve_ex(matrix, gap)[0].reshape(z.shape).to(z.dtype)
    return z


def implicit_root(function: Function, z: Tensor, x: Tensor, rank: int, tolerance: float, max_iterations: int) -> Tensor:
    """The root with exact first derivatives from products alone: in the backward pass (I + J)' u = gradient is a fixed point too."""
    value, pull = pullback(function, z)
    held = z + (x - z - value) - (x - z - value).detach()  # the value of z, the partial derivatives of x - g(z) at fixed z
    adjoint: Tensor = _Adjoint.apply(held, pull, rank, tolerance, max_iterations)  # type: ignore[no-untyped-call]
    return adjoint


def solve_adjoint(product: Pull, gradient: Tensor, rank: int, tolerance: float, max_iterations: int) -> Tensor:
    """u with (I + J)' u = gradient, without a graph; NaN for events that do not converge."""
    if not gradient.numel():
        return gradient
    scale = largest(gradient, rank)
    solved, status = solve_fixed_point(lambda u: gradient - product(u), gradient, rank, scale=scale, tolerance=tolerance, max_iterations=max_iterations)
    return torch.where(mask_event(status.converged, rank), solved, torch.full_like(solved, torch.nan))  # better than a wrong number


def largest(value: Tensor, rank: int) -> Tensor:
    """Largest absolute entry of each event: (*B, *event) -> (*B)."""
    batch, event = value.shape[: value.dim() - rank], value.shape[value.dim() - rank :]
    return torch.linalg.vector_norm(value.reshape(*batch, event.numel()), ord=torch.inf, dim=-1)


class _Adjoint(torch.autograd.Function):
    """The identity, whose backward pass solves (I + J)' u = gradient."""

    @staticmethod
    def forward(z: Tensor, product: Pull, rank: int, tolerance: float, max_iterations: int) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.options = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        refuse_second_order("ResidualOf.inverse", "log_det='exact'")
        product, *options = ctx.options
        return solve_adjoint(product, gradient, *options), None, None, None, None
