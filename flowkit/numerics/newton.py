"""Roots of vector functions by Newton's method with a line search."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowkit.core.loops import may_branch

HALVINGS = 40  # of a step, before a row counts as stuck; fewer where the search cannot stop early


def newton_solve(function: Callable[[Tensor], Tensor], jacobian: Callable[[Tensor], Tensor], y: Tensor, *, iterations: int = 1000) -> Tensor:
    """Solve function(x) = y row by row, starting at x = y; every step is halved until the residual falls.

    Short enough steps follow a path along which the residual shrinks in a straight line, which a function invertible on all of
    R^D does not leave before the root: far starts take many steps, near ones a few. No gradient passes through. Rows that are
    done stay where they are; the caller judges the result. Where a loop cannot stop early (compiled, vmap) 40 steps are taken.

    Args:
        function: (N, D) -> (N, D). jacobian: (N, D) -> (N, D, D). y: (N, D).

    Returns:
        x (N, D), the best point found.
    """
    if y.is_meta:  # nothing to look for
        return y
    with torch.no_grad():
        y = y.detach()
        x, eps = y.clone(), torch.finfo(y.dtype).eps
        residual = function(x) - y
        error, done = residual.norm(dim=-1), torch.zeros_like(y[..., 0], dtype=torch.bool)
        size = torch.ones_like(error)
        for _ in range(iterations if may_branch(y) else min(iterations, 40)):
            step = _solve(jacobian(x), residual)
            better, after, size = _searched(function, x, y, step, error, (4 * size).clamp(max=1.0))
            error_after = after.norm(dim=-1)
            gained = error_after < error
            small = (step.norm(dim=-1) <= 4 * eps * x.norm(dim=-1)) | (error <= 2 * eps * y.norm(dim=-1))
            moved = (gained & ~done).unsqueeze(-1)
            x, residual = torch.where(moved, better, x), torch.where(moved, after, residual)
            error = torch.where(moved.squeeze(-1), error_after, error)
            done = done | small | ~gained
            if may_branch(y) and bool(done.all()):
                break
        return x


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix^-1 right; zero where the matrix is singular, so that one bad row does not end the others."""
    solution, info = torch.linalg.solve_ex(matrix, right.unsqueeze(-1))
    usable = (info == 0).reshape(*info.shape, 1, 1) & torch.isfinite(solution)
    return torch.where(usable, solution, torch.zeros_like(solution)).squeeze(-1)


def _searched(function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, step: Tensor, error: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first of x - size step, x - size step / 2, ... whose residual is smaller, that residual, and the share of the step."""
    point = x - size.unsqueeze(-1) * step
    residual = function(point) - y
    for _ in range(HALVINGS if may_branch(y) else 8):
        worse = ~(residual.norm(dim=-1) < error)  # a NaN is worse
        if may_branch(y) and not bool((worse & (error > 0)).any()):
            break
        size = torch.where(worse, size / 2, size)
        point = x - size.unsqueeze(-1) * step
        residual = function(point) - y
    return point, residual, size
