"""Trigonometric factors of geodesics as smooth functions of a squared length, and rotations as axis angles and quaternions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SERIES = 1e-2  # squared lengths below are served by the series, whose first dropped term is then below 1e-16
NOISE = 8.0  # units of rounding below which a direction says nothing


def cosine(square: Tensor) -> Tensor:
    """cos(n) from n^2, smooth at 0."""
    large = square > SERIES
    length = torch.where(large, square, torch.ones_like(square)).sqrt()
    s = torch.where(large, torch.zeros_like(square), square)
    return torch.where(large, length.cos(), 1 - s / 2 * (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90)))))


def sine_ratio(square: Tensor) -> Tensor:
    """sin(n) / n from n^2, smooth at 0."""
    large = square > SERIES
    length = torch.where(large, square, torch.ones_like(square)).sqrt()
    s = torch.where(large, torch.zeros_like(square), square)
    return torch.where(large, length.sin() / length, 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110)))))


def versine_ratio(square: Tensor) -> Tensor:
    """(1 - cos n) / n^2 = (sin(n / 2) / (n / 2))^2 / 2 from n^2, smooth at 0."""
    return 0.5 * sine_ratio(0.25 * square).square()


def angle_ratio(across: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """angle / |across| for the angle whose cosine is ``along`` and whose sine is |across|.

    Args:
        across: (*B, n); along: (*B, 1).

    Returns:
        The ratio (*B, 1), 1 at angle 0, and whether ``across`` is lost in rounding (*B, 1), as it is at angles 0 and pi.
    """
    square = across.square().sum(-1, keepdim=True)
    lost = square <= (NOISE * torch.finfo(across.dtype).eps) ** 2
    sine = torch.where(lost, torch.ones_like(square), square).sqrt()
    return torch.where(lost, torch.ones_like(sine), torch.atan2(sine, along) / sine), lost


def hat(omega: Tensor) -> Tensor:
    """The skew matrix W with W a = omega x a: (*B, 3) -> (*B, 3, 3)."""
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def vee(matrix: Tensor) -> Tensor:
    """The axis vector of a matrix's skew part: (*B, 3, 3) -> (*B, 3)."""
    rows = [matrix[..., 2, 1] - matrix[..., 1, 2], matrix[..., 0, 2] - matrix[..., 2, 0], matrix[..., 1, 0] - matrix[..., 0, 1]]
    return 0.5 * torch.stack(rows, dim=-1)


def rotation(omega: Tensor) -> Tensor:
    """Rodrigues' formula: the rotation about omega by |omega|: (*B, 3) -> (*B, 3, 3)."""
    square = omega.square().sum(-1)[..., None, None]
    skew = hat(omega)
    eye = torch.eye(3, dtype=omega.dtype, device=omega.device)
    return eye + sine_ratio(square) * skew + versine_ratio(square) * (skew @ skew)


def axis_angle(matrix: Tensor) -> Tensor:
    """The shortest omega of a rotation matrix, |omega| <= pi: (*B, 3, 3) -> (*B, 3); at pi one of the two axes."""
    q = quaternion(matrix)
    w, axis = q[..., :1], q[..., 1:]
    sign = torch.where(w < 0, -torch.ones_like(w), torch.ones_like(w))
    ratio, _ = angle_ratio(axis, w * sign)
    return 2 * ratio * sign * axis


def quaternion(matrix: Tensor) -> Tensor:
    """One of the two unit quaternions (w, x, y, z) of a rotation matrix: (*B, 3, 3) -> (*B, 4).

    The entries of 4 q q' are linear in those of the matrix; its column with the largest diagonal entry, which is 1 at least,
    is a multiple of q free of cancellation.
    """
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    entries = [1 + xx + yy + zz, wx, wy, wz, wx, 1 + xx - yy - zz, xy, xz, wy, xy, 1 - xx + yy - zz, yz, wz, xz, yz, 1 - xx - yy + zz]
    outer = torch.stack(entries, dim=-1).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    column = outer.gather(-1, best[..., None, None].expand(*best.shape, 4, 1)).squeeze(-1)
    return column / torch.linalg.vector_norm(column, dim=-1, keepdim=True)


def quaternion_rotation(q: Tensor) -> Tensor:
    """The rotation matrix of a unit quaternion: (*B, 4) -> (*B, 3, 3)."""
    skew = hat(q[..., 1:])
    return torch.eye(3, dtype=q.dtype, device=q.device) + 2 * (q[..., :1].unsqueeze(-1) * skew + skew @ skew)


def sphere_volume(dim: int) -> float:
    """Volume of the unit sphere S^dim: 2 pi^((dim + 1) / 2) / Gamma((dim + 1) / 2)."""
    half = 0.5 * (dim + 1)
    return 2 * math.exp(half * math.log(math.pi) - math.lgamma(half))
