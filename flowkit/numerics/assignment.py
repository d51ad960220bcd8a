"""The assignment problem, solved exactly: who is paired with whom at the least total cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.core.errors import NonFiniteError, ShapeError
from flowkit.kernels.cpu import library


@torch.no_grad()
def assign(cost: Tensor) -> Tensor:
    """The permutation s that minimises sum_i cost[i, s(i)], exactly.

    Shortest augmenting paths (Jonker and Volgenant) in float64, O(N^3) at worst: about 1 ms for the squared distances of 256 standardised
    points, 4 ms for 512. It runs on the CPU, compiled, or by SciPy where nothing could be compiled; a cost on another device is copied there
    and the permutation back, which is one synchronisation. No gradient passes through.

    Args:
        cost: (N, N), finite.

    Returns:
        (N) int64 on the cost's device: the column of each row.

    Raises:
        ShapeError: the cost is not square. NonFiniteError: it holds NaN or infinite values.

    Reference: Jonker and Volgenant (1987), A shortest augmenting path algorithm for dense and sparse linear assignment problems, Computing 38.

    Example:
        >>> import torch
        >>> from flowkit.numerics.assignment import assign
        >>> assign(torch.tensor([[1.0, 2.0, 0.0], [0.0, 2.0, 3.0], [4.0, 1.0, 5.0]]))
        tensor([2, 0, 1])
    """
    if cost.dim() != 2 or cost.shape[0] != cost.shape[1]:
        raise ShapeError(f"assign: expected a square cost (N, N); got {tuple(cost.shape)}. Give both sides the same number of points.")
    wide = cost.detach().to("cpu", torch.float64).contiguous()
    if not math.isfinite(wide.sum().item()) and not bool(torch.isfinite(wide).all()):  # the sum alone is quick, but may overflow
        raise NonFiniteError("assign: the cost holds NaN or infinite values. Check the points it is made of.")
    columns = torch.empty(len(wide), dtype=torch.int64)
    if library.unavailable() is None:
        library.call("assignment", (wide, columns), (len(wide),), 0)
    else:
        from scipy.optimize import linear_sum_assignment

        columns = torch.from_numpy(linear_sum_assignment(wide.numpy())[1])
    return columns.to(cost.device)


@torch.no_grad()
def assign_each(costs: Tensor) -> Tensor:
    """``assign`` for every cost of a batch: (*B, N, N) -> (*B, N) int64. About 10 us for each of 13 points."""
    if costs.dim() < 2 or costs.shape[-1] != costs.shape[-2]:
        raise ShapeError(f"assign_each: expected square costs (*B, N, N); got {tuple(costs.shape)}.")
    wide = costs.detach().to("cpu", torch.float64).reshape(-1, *costs.shape[-2:]).contiguous()
    if not bool(torch.isfinite(wide).all()):
        raise NonFiniteError("assign_each: costs hold NaN or infinite values. Check the points they are made of.")
    columns = torch.empty(wide.shape[:2], dtype=torch.int64)
    if library.unavailable() is None:
        for cost, column in zip(wide.unbind(), columns.unbind(), strict=True):
            library.call("assignment", (cost, column), (len(cost),), 0)
    else:
        for cost, column in zip(wide.unbind(), columns.unbind(), strict=True):
            column.copy_(assign(cost))
    return columns.reshape(costs.shape[:-1]).to(costs.device)
