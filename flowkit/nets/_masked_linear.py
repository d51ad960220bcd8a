"""Linear layers with some weights held at zero, and what a stack of them lets through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ShapeError


class MaskedLinear(nn.Linear):
    """Linear layer with some weights held at zero: mask (out, in)."""

    mask: Tensor

    def __init__(self, mask: Tensor, *, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias=bias)
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        fan_in = mask.sum(1, keepdim=True).clamp(min=1)
        with torch.no_grad():  # keep the variance that a dense layer of each unit's own fan-in would have
            self.weight.mul_((mask.shape[1] / fan_in).sqrt() * self.mask)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.mask * self.weight, self.bias)


def as_masks(masks: Iterable[Tensor], fewest: int, who: str) -> tuple[Tensor, ...]:
    """Read the masks of a stack of layers: boolean matrices (out, in), each as wide as the one before has rows."""
    read = tuple(torch.as_tensor(mask, dtype=torch.bool) for mask in masks)
    shapes = [tuple(mask.shape) for mask in read]
    fits = all(len(shape) == 2 for shape in shapes) and all(after[1] == before[0] for before, after in pairwise(shapes))
    if len(read) < fewest or not fits:
        raise ShapeError(f"{who}: expected at least {fewest} masks of shape (out, in), each as wide as the one before is high; got shapes {shapes}.")
    return read


def through(masks: Sequence[Tensor]) -> Tensor:
    """Which input reaches which output of a stack of masked layers: boolean (out, in)."""
    reached = masks[0].bool()
    for mask in masks[1:]:
        reached = (mask.to(torch.float64) @ reached.to(torch.float64)) > 0
    return reached
