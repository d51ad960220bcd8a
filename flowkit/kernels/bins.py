"""The bins of a spline as operations on tensors: their sizes from raw numbers, and the bin that a value falls in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MIN_WIDTH = 1e-3
MIN_HEIGHT = 1e-3
SHORT = 16  # entries in the widest vector register of a CPU


class Axis(NamedTuple):
    """All bins along one axis: sizes and how far each one's right end is from ``low``, both (*S, K)."""

    size: Tensor
    reach: Tensor
    low: float

    @property
    def left(self) -> Tensor:
        """Left ends of the bins (*S, K)."""
        return self.low + functional.pad(self.reach[..., :-1], (1, 0))


class Bin(NamedTuple):
    """One bin for every element: its number (*S, 1), then left ends and sizes, all of the element's shape."""

    number: Tensor
    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor


def knots(raw: Tensor, low: float, high: float, floor: float) -> Axis:
    """Bins from raw parameters (*S, K): softmax with a floor; sizes sum to high - low."""
    return scaled(shares(raw), low, high, floor)


def shares(raw: Tensor) -> Tensor:
    """The softmax of raw parameters (*S, K) over the bins."""
    if raw.device.type != "cpu" or raw.shape[-1] >= SHORT:
        return torch.softmax(raw, dim=-1)
    # torch takes a last axis shorter than a register number by number; with the bins in front it goes register by register
    return torch.softmax(raw.movedim(-1, 0), dim=0).movedim(0, -1)


def scaled(share: Tensor, low: float, high: float, floor: float) -> Axis:
    """Bins from shares (*S, K) of the interval that sum to 1, none below ``floor`` afterwards."""
    return placed((high - low) * (floor + (1 - floor * share.shape[-1]) * share), low)


def placed(size: Tensor, low: float) -> Axis:
    """Bins of given sizes (*S, K) one after the other from ``low``."""
    return Axis(size, size.cumsum(-1), low)


def bin_of(value: Tensor, x: Axis, y: Axis, *, by_height: bool) -> Bin:
    """The bin of each value (*S), looked for among the left ends of y or of x; a value on a knot is in the bin after it."""
    searched = y if by_height else x
    index = (value.unsqueeze(-1) >= searched.low + searched.reach[..., :-1]).sum(-1, keepdim=True)
    # picked from what the value was compared with: on a knot the distance from it is exactly 0
    before, first = (index - 1).clamp(min=0), (index == 0).squeeze(-1)
    left, bottom = (axis.low + torch.where(first, 0.0, pick(axis.reach, before)) for axis in (x, y))
    return Bin(index, left, pick(x.size, index), bottom, pick(y.size, index))


def pick(table: Tensor, index: Tensor) -> Tensor:
    """The entries of a table (*S, K) at an index (*S, 1): (*S)."""
    return table.gather(-1, index).squeeze(-1)
