"""Constants that are as exact as the dtype allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


class Exact(nn.Module):
    """A constant tensor, ``value``, made anew in float64 whenever the module's dtype changes: float32 and back loses nothing.

    Args:
        make: gives the numbers, float64; a function of the top level or a ``functools.partial`` of one, so that it can be pickled.
    """

    value: Tensor

    def __init__(self, make: Callable[[], np.ndarray]) -> None:
        super().__init__()
        self.make = make
        self.register_buffer("value", torch.as_tensor(np.array(make()), dtype=torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Exact:
        before = self.value.dtype
        super()._apply(fn, recurse)
        if self.value.dtype != before and self.value.device.type != "meta":
            self.value = torch.as_tensor(np.array(self.make()), dtype=self.value.dtype, device=self.value.device)
        return self
