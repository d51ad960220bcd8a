"""Score rules that several maps share, each in the form of the hook ``Bijector._carry``: s' = J^-T (s - grad log|det J|)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowkit.core.shapes import sum_event
from flowkit.core.transform import Bijector

Carry = tuple[Tensor, Tensor, Tensor]
Solve = Callable[[Tensor], Tensor]


def entry(value: Tensor, recording: bool) -> Tensor:
    """The point to differentiate at: the value where its own graph is recorded, else a leaf in its place. To be called under ``enable_grad``."""
    return value if recording and value.requires_grad else value.detach().requires_grad_()


def left(out: Tensor, log_det: Tensor, score: Tensor, recording: bool) -> Carry:
    """The result of a rule, without a graph where the caller records none."""
    return (out, log_det, score) if recording else (out.detach(), log_det.detach(), score)


def carry_orthogonal(self: Bijector, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> Carry:
    """An orthogonal map without a shift, such as a permutation: J^-T = J, so the score moves as the point does."""
    out, log_det = self._formula(value, context, generator, inverse)
    with torch.no_grad():
        carried, _ = self._formula(score, context, generator, inverse)
    return out, log_det, carried


def carry_diagonal(self: Bijector, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> Carry:
    """A map of each coordinate alone: two products with the call itself give the slopes and the bends, s' = (s - bend) / slope."""
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        entered = entry(value, recording)
        out, log_det = self._formula(entered, context, generator, inverse)
        (slope,) = torch.autograd.grad(out.sum(), entered, retain_graph=True)
        bend = gradient(log_det, entered)
    return left(out, log_det, (score - bend) / slope, recording)


def carry_scalars(scalars: Callable[[Tensor], tuple[Tensor, Tensor]], value: Tensor, score: Tensor, event_dims: int, sign: float = 1.0) -> Carry:
    """A fixed scalar map of every coordinate, from its log-slopes, which do not saturate where its values do: s' = (s - d log|slope|) / slope.

    Args:
        scalars: value (*S) -> out (*S) and log|slope| (*S); it has no parameters.
        sign: of the slope.
    """
    recording = torch.is_grad_enabled() and value.requires_grad
    with torch.enable_grad():
        entered = entry(value, recording)
        out, log_slope = scalars(entered)
        bend = gradient(log_slope, entered)
    carried = sign * (score - bend) * torch.exp(-log_slope.detach()).to(score.dtype)
    return left(out, sum_event(log_slope, event_dims), carried, recording)


def carry_solved(formula: Callable[[Tensor], tuple[Tensor, Tensor, Solve]], value: Tensor, score: Tensor) -> Carry:
    """A map that knows its J^-T: s' = J^-T (s - grad log_det).

    Args:
        formula: value -> out, log_det, and a function that multiplies (*B, *event) by J^-T there; it is called without recording.
    """
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        entered = entry(value, recording)
        out, log_det, solve = formula(entered)
        bend = gradient(log_det, entered)
    with torch.no_grad():
        carried = solve(score - bend)
    return left(out, log_det, carried, recording)


def carry_forward_solved(self: Any, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> Carry:
    """Of a fixed map with a method ``_at``, the formula of ``carry_solved``; the inverse by its call and one product of the other direction."""
    if inverse:
        return Bijector._carry(self, value, score, context, generator, inverse)
    return carry_solved(self._at, value, score)


def gradient(value: Tensor, at: Tensor) -> Tensor:
    """The gradient of a sum; zero where it does not depend on the point. The graph is kept."""
    if not value.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(value.sum(), at, retain_graph=True, materialize_grads=True)
    return found


def adjoint(linear: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """A^T value for a product with a square matrix A, a constant."""
    with torch.enable_grad():
        point = value.detach().requires_grad_()  # any point would do
        (found,) = torch.autograd.grad(linear(point), point, value)
    return found


def tails(value: Tensor, log_rest: Tensor) -> Tensor:
    """T_j of rest_j T_{j-1} = value_j + T_j with T_D = 0, along the last axis: the sum over i > j of value_i / (rest_{j+1} ... rest_i).

    Summed in logarithms, either sign by itself, as the product of all rests may leave the dtype's range where a tail does not.
    """
    log_left = log_rest.cumsum(-1)

    def tail(size: Tensor) -> Tensor:
        logs = (size.log() - log_left).flip(-1).logcumsumexp(-1).flip(-1)
        return torch.exp(log_left + torch.nn.functional.pad(logs[..., 1:], (0, 1), value=-torch.inf))

    return tail(value.clamp(min=0)) - tail((-value).clamp(min=0))
