"""Quantiles from a distribution function alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.numerics.root_finding import solve_increasing


def solve_quantile(cdf: Callable[[Tensor], Tensor], p: Tensor, *, low: float | Tensor = -float("inf"), high: float | Tensor = float("inf")) -> Tensor:
    """Solve cdf(x) = p for every element, with gradients in p and in whatever else cdf depends on.

    The root is found without a graph. Newton steps with one then give exact first and second derivatives; the slope is
    the derivative of cdf by autograd. Where the slope vanishes (p at 0 or 1) a root stays as it was found.

    Args:
        cdf: (*S) -> (*S), increasing and elementwise, differentiable.
        p: probabilities (*S).
        low, high: ends of the support, a number or one per element (broadcast to *S).

    Returns:
        x (*S); NaN where p is NaN.
    """
    x = torch.empty_like(p) if p.is_meta else solve_increasing(cdf, p, low=low, high=high)
    x = torch.where(torch.isnan(p), torch.nan, x)
    if not torch.is_grad_enabled():
        return x
    low, high = torch.as_tensor(low).to(x), torch.as_tensor(high).to(x)
    for _ in range(2):
        slope = torch.func.grad(lambda point: cdf(point).sum())(x)
        sound = slope > torch.finfo(x.dtype).tiny
        step = (p - cdf(x)) / torch.where(sound, slope, 1.0)
        moved = x + step
        moved = moved + (torch.minimum(torch.maximum(moved, low), high) - moved).detach()  # at an end the gradient stays whole
        x = torch.where(sound & torch.isfinite(moved), moved, x)
    return x
