"""The bins of a spline as operations on tensors: their sizes from raw numbers, and the bin that a value falls in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

MIN_WIDTH = 1e-3
MIN_HEIGHT = 1e-3


class Axis(NamedTuple):
    """All bins along one axis: sizes and left ends, both (*S, K)."""

    size: Tensor
    left: Tensor


class Bin(NamedTuple):
    """One bin for every element: its number (*S, 1), then left ends and sizes, all of the element's shape."""

    number: Tensor
    x: Tensor
    width: Tensor
    y: Tensor
    height: Tensor


def knots(raw: Tensor, low: float, high: float, floor: float) -> Axis:
    """Bins from raw parameters (*S, K): softmax with a floor; sizes sum to high - low."""
    return scaled(torch.softmax(raw, dim=-1), low, high, floor)


def scaled(share: Tensor, low: float, high: float, floor: float) -> Axis:
    """Bins from shares (*S, K) of the interval that sum to 1, none below ``floor`` afterwards."""
    return placed((high - low) * (floor + (1 - floor * share.shape[-1]) * share), low)


def placed(size: Tensor, low: float) -> Axis:
    """Bins of given sizes (*S, K) one after the other from ``low``."""
    return Axis(size, low + functional.pad(size[..., :-1].cumsum(-1), (1, 0)))


def bin_of(value: Tensor, x: Axis, y: Axis, *, by_height: bool) -> Bin:
    """The bin of each value (*S), looked for among the left ends of y or of x; a value on a knot is in the bin after it."""
    left = y.left if by_height else x.left
    index = (value.unsqueeze(-1) >= left[..., 1:]).sum(-1, keepdim=True)
    return Bin(index, pick(x.left, index), pick(x.size, index), pick(y.left, index), pick(y.size, index))


def pick(table: Tensor, index: Tensor) -> Tensor:
    """The entries of a table (*S, K) at an index (*S, 1): (*S)."""
    return table.gather(-1, index).squeeze(-1)
