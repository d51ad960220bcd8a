"""Keeping the arithmetic of maps and densities out of autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(value: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off on the tensor's device: under bf16 only networks run in bf16, maps and log_dets do not."""
    device = value.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
