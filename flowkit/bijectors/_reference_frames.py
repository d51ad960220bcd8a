"""Orthonormal frames at atoms, built from three reference points each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
COLLINEAR = 4.0  # sines below this many rounding units count as zero


class ReferenceFrames(nn.Module):
    """The frames that rows of a z-matrix measure positions in.

    With references p, q, r of a row: first axis along q - p; the third along (r - q) x (q - p); the second completes them, so
    that it points to the side of r. In polar coordinates about the first axis, counted from the second to the third, the
    position of an atom is its bond length to p, its angle to q and its dihedral angle to r (cis is 0; sign of IUPAC).
    A missing q stands a unit above p in z, a missing r a unit from q: in x if q is missing too, in z otherwise.

    Where references coincide or lie on a line, constant axes stand in, so that values and gradients stay finite.

    Args:
        references: positions in the list of points, one to three a row.
    """

    index: Tensor
    given: Tensor
    spare: Tensor
    fallback: Tensor

    def __init__(self, references: Sequence[Sequence[int]]) -> None:
        super().__init__()
        padded = [[*row, *([0] * (3 - len(row)))] for row in references]
        self.register_buffer("index", torch.tensor(padded), persistent=False)
        self.register_buffer("given", torch.tensor([[[len(row) > 1], [len(row) > 2]] for row in references]), persistent=False)
        self.register_buffer("spare", torch.tensor([[Z, Z if len(row) > 1 else X] for row in references]), persistent=False)
        self.register_buffer("fallback", torch.tensor([X, Y]), persistent=False)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Origins (*B, rows, 3) and axes (*B, rows, 3, 3), one axis a row, for points (*B, atoms, 3)."""
        near = points[..., self.index, :]
        steps = torch.where(self.given, near[..., 1:, :] - near[..., :-1, :], self.spare.to(points))
        units = _units(steps, self.spare.to(points))
        first, towards = units[..., 0, :], units[..., 1, :]
        return near[..., 0, :], self._complete(first, towards)

    def _complete(self, first: Tensor, towards: Tensor) -> Tensor:
        normal = torch.linalg.cross(towards, first)
        sound = normal.square().sum(-1, keepdim=True) > (COLLINEAR * torch.finfo(first.dtype).eps) ** 2
        fallback = self.fallback.to(first)
        side = torch.where(first[..., :1].abs() < 0.7, fallback[0], fallback[1])  # whichever is far from the first axis
        normal = torch.where(sound, normal, torch.linalg.cross(side, first))
        third = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
        return torch.stack([first, torch.linalg.cross(first, third), third], dim=-2)


def length_floor(dtype: torch.dtype) -> float:
    """Lengths below count as zero: gradients of directions, 1 / length, and their products then stay finite."""
    return torch.finfo(dtype).eps ** 2


def safe_length(vector: Tensor) -> Tensor:
    """Euclidean length over the last axis, exactly zero below the floor with a gradient of zero: (*S, k) -> (*S)."""
    square = vector.square().sum(-1)
    positive = square > length_floor(vector.dtype) ** 2
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _units(vector: Tensor, fallback: Tensor) -> Tensor:
    length = safe_length(vector).unsqueeze(-1)
    positive = length > 0
    return torch.where(positive, vector / torch.where(positive, length, 1.0), fallback)
