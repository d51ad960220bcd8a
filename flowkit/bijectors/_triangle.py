"""Vectors as the lower triangle of a matrix, row by row, without an index tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def fill(entries: Tensor, size: int, diagonal: int) -> Tensor:
    """(*B, k) -> (*B, size, size): row i takes the next i + 1 (diagonal 0) or i (diagonal -1) entries, zeros elsewhere."""
    lengths = [row + 1 + diagonal for row in range(size)]
    parts = entries.split(lengths, dim=-1)
    return torch.stack([functional.pad(part, (0, size - length)) for part, length in zip(parts, lengths, strict=True)], dim=-2)


def take(matrix: Tensor, diagonal: int) -> Tensor:
    """The inverse of ``fill``: the entries above the diagonal are not looked at."""
    size = matrix.shape[-1]
    return torch.cat([matrix[..., row, : row + 1 + diagonal] for row in range(size)], dim=-1)
