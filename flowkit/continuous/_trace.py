"""The trace of a layered map's Jacobian, without automatic differentiation.

1. Layers a_k = W_k h_{k-1} + ..., h_k = act(a_k), and v = W_n h_{n-1} + ... have the Jacobian W_n S_{n-1} W_{n-1} ... S_1 W_1 with
   S_k = diag(act'(a_k)), in which only the S_k depend on the sample.
2. One hidden layer: tr(W_2 S_1 W_1) = sum_i s_1i k_i with k_i = sum_d W_1id W_2di.
3. Two hidden layers: tr(W_3 S_2 W_2 S_1 W_1) = sum_ji s_2j K_ji s_1i with K = W_2 * (W_1 W_3)': O(w^2) for a sample, whatever d.
4. More: the rows of the Jacobian, (d, w), are carried from layer to layer: O(d w^2) for a sample and layer.
5. Gates multiply the rows of W_k: those of hidden layers go into s_k, that of the last layer into W_n where it is the same for the
   whole batch, and else weighs the diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def trace_of_layers(weights: Sequence[Tensor], slopes: Sequence[Tensor], gate: Tensor | None = None) -> Tensor:
    """tr(G W_n S_{n-1} ... S_1 W_1).

    Args:
        weights: W_1 (w, d), ..., W_n (d, w).
        slopes: diagonals of S_1 .. S_{n-1}, each (*B, w); not empty.
        gate: diagonal of G, (d) or (*B, d).

    Returns:
        (*B).
    """
    first, last = weights[0], weights[-1]
    if gate is not None and gate.dim() == 1:
        last, gate = gate.unsqueeze(-1) * last, None
    if len(weights) == 2 and gate is None:
        return slopes[0] @ (first * last.mT).sum(-1)
    if len(weights) == 3 and gate is None:
        kernel = weights[1].mT * (first @ last)  # K', (w_1, w_2)
        return ((slopes[0] @ kernel) * slopes[1]).sum(-1)
    diagonal = _diagonal(first, weights[1:-1], last, slopes)
    return (diagonal if gate is None else diagonal * gate).sum(-1)


def _diagonal(first: Tensor, middle: Sequence[Tensor], last: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """The diagonal of W_n S_{n-1} ... S_1 W_1: (*B, d)."""
    if not middle:
        return slopes[0] @ (first * last.mT)
    rows = slopes[0].unsqueeze(-2) * first.mT  # (*B, d, w): transposed Jacobian of h_1
    for weight, slope in zip(middle[:-1], slopes[1:-1], strict=True):
        rows = (rows @ weight.mT) * slope.unsqueeze(-2)
    return ((rows @ middle[-1].mT) * last * slopes[-1].unsqueeze(-2)).sum(-1)
