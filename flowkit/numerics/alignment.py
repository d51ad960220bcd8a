"""Superposition of clusters of alike particles: the rotation and the order of particles that bring one nearest to another."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flowkit.numerics.assignment import assign_each

Alignment = Literal["none", "rotation", "permutation", "both"]


def rotation_onto(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The proper rotation R that takes centred points x nearest to y, and the squared distance left: sum_i |R x_i - y_i|^2 = least.

    With the singular values s of sum_i y_i x_i^T = U diag(s) V^T: R = U diag(1, ..., 1, det U V^T) V^T, and the distance is
    |x|^2 + |y|^2 - 2 (s_1 + ... + s_{d-1} + det(U V^T) s_d).

    Args:
        x, y: (*B, N, d), batches that broadcast.

    Returns:
        R (*B, d, d) and the squared distance (*B).

    Reference: Kabsch (1976), A solution for the best rotation to relate two sets of vectors, Acta Cryst. A 32.
    """
    u, s, vh = torch.linalg.svd(y.mT @ x)
    sign = torch.linalg.det(u @ vh).sign()
    sign = torch.where(sign == 0, torch.ones_like(sign), sign)
    signs = torch.cat([torch.ones_like(s[..., :-1]), sign[..., None]], -1)
    distance = x.square().sum((-2, -1)) + y.square().sum((-2, -1)) - 2 * (s * signs).sum(-1)
    return (u * signs.unsqueeze(-2)) @ vh, distance.clamp(min=0)


def superpose(x: Tensor, y: Tensor, align: Alignment = "both", rounds: int = 1) -> Tensor:
    """x, reordered and turned about its centre of mass towards y; the centre stays where it is.

    "both" first takes the order of least squared distance, then the best rotation, ``rounds`` times: each can only bring x nearer, the end is a local
    minimum. Not differentiable.

    Args:
        x, y: (*B, N, d), of one shape.

    Returns:
        (*B, N, d).

    Reference: Klein, Kraemer and Noe (2023), Equivariant flow matching, arXiv:2306.15030, section 4.
    """
    centre = x.mean(-2, keepdim=True)
    moved, goal = x - centre, y - y.mean(-2, keepdim=True)
    for _ in range(rounds if align == "both" else 1):
        if align in ("permutation", "both"):
            order = assign_each(_squared(goal, moved))
            moved = moved.gather(-2, order.unsqueeze(-1).expand(moved.shape))
        if align in ("rotation", "both"):
            moved = moved @ rotation_onto(moved, goal)[0].mT
    return moved + centre


def squared_distances(x: Tensor, y: Tensor, align: Alignment = "both", rounds: int = 1, rows: int = 16) -> Tensor:
    """sum_i |x'_i - y_i|^2 after ``superpose`` of every x on every y: (A, N, d), (B, N, d) -> (A, B). Never above that without it.

    Args:
        rows: of x done at a time, which bounds the memory at rows B N^2 numbers.
    """
    parts = []
    for part in x.split(rows):
        first, second = torch.broadcast_tensors(part.unsqueeze(1), y.unsqueeze(0))
        parts.append((superpose(first, second, align, rounds) - second).square().sum((-2, -1)))
    return torch.cat(parts) if parts else x.new_zeros(0, len(y))


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2: (*B, N, d), (*B, N, d) -> (*B, N, N)."""
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)
