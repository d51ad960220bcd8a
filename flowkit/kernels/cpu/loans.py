"""Memory that a training step takes and gives back, kept for the next one.

A layer's states are megabytes that live from the forward to the backward. The system's allocator returns such blocks to the kernel, which
clears every page anew at each step: that took longer than writing what they hold.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MOST_KEPT = 2**26  # bytes that wait for a next use
MOST_BLOCK = 2**23  # bytes of one: larger ones spend their time on arithmetic


class _Pool:
    """Blocks that wait, by their size."""

    def __init__(self) -> None:
        self.waiting: dict[int, list[Tensor]] = {}
        self.bytes = 0

    def take(self, size: int) -> Tensor:
        try:
            block = self.waiting[size].pop()
        except (KeyError, IndexError):
            return torch.empty(size, dtype=torch.uint8, device="cpu")
        self.bytes -= size
        return block

    def put(self, block: Tensor) -> None:
        size = block.numel()
        if self.bytes + size > MOST_KEPT:  # sizes that nobody asks for any more would stay for ever
            self.waiting, self.bytes = {}, 0
        self.bytes += size  # calls nothing in between, so no other thread's change is lost
        self.waiting.setdefault(size, []).append(block)


class _Loan:
    """A block on loan; it goes back when nothing refers to the tensor over it any more."""

    def __init__(self, pool: _Pool, block: Tensor) -> None:
        self._pool, self._block = pool, block
        self.__array_interface__ = {"shape": (block.numel(),), "typestr": "|u1", "data": (block.data_ptr(), False), "version": 3}

    def __del__(self) -> None:
        self._pool.put(self._block)


_POOL = _Pool()


def borrow(count: int, dtype: torch.dtype) -> Tensor:
    """So many numbers in CPU memory, with whatever they held before: (count,)."""
    size = count * dtype.itemsize
    if not 0 < size <= MOST_BLOCK:
        return torch.empty(count, dtype=dtype, device="cpu")
    return torch.from_numpy(np.asarray(_Loan(_POOL, _POOL.take(size)))).view(dtype)
