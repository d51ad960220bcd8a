"""The smooth bend between two slopes."""

from __future__ import annotations

import torch
from torch import Tensor


def bend(z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """x = z + a (sqrt(z^2 + 1) - 1) and its log-slope, for |a| < 1, without cancellation where the slope is small.

    With s = sqrt(z^2 + 1), s - 1 = |z| - |z| (|z| / (s + 1) + 1) / (s + |z|) and |z| / s = 1 - 1 / (s (s + |z|)).
    """
    left = z < 0
    size, side = torch.where(left, -z, z), torch.where(left, -a, a)
    root = torch.sqrt(size.square() + 1)
    far = root + size
    return z * (1 + side) - a * ((size / (root + 1) + 1) * (size / far)), torch.log(1 + side - side / (root * far))


def unbend(x: Tensor, a: Tensor) -> Tensor:
    """The z of ``bend``, without cancellation for any |a| < 1.

    With u = exp(asinh z), 2 (x + a) = (1 + a) u - (1 - a) / u; the root of this quadratic that is positive is taken from
    the side where nothing cancels, and z = (u - 1/u) / 2.
    """
    y = x + a
    low = y < 0
    root = torch.where(low, -y, y) + torch.sqrt(y.square() + (1 - a) * (1 + a))
    u = torch.where(low, (1 - a) / root, root / (1 + a))
    return 0.5 * (u - torch.where(low, root / (1 - a), (1 + a) / root))
