"""Devices and processes: torch's own, chosen here and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from flowkit.core.errors import ConfigError


def pick_device(device: str | torch.device) -> torch.device:
    """``"auto"``: this process's GPU if there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"fit: device {device!r} cannot be used here ({str(error).splitlines()[0]}). Use 'cpu' or 'auto'.") from None
    return chosen


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """Rank and world size; under ``torchrun`` the process group is opened, and closed again if it was opened here."""
    if not torch.distributed.is_available() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0, 1
        return
    opened = not torch.distributed.is_initialized()
    if opened:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
    finally:
        if opened:
            torch.distributed.destroy_process_group()


def agreed(value: int, world: int, device: torch.device) -> int:
    """The first process's value, on all of them; they meet here."""
    if world < 2:
        return value
    tensor = torch.tensor(value, device=device if device.type == "cuda" else "cpu")
    torch.distributed.broadcast(tensor, src=0)
    return int(tensor.item())


def wrap(module: nn.Module, device: torch.device, world: int) -> Any:
    """Share the gradients of the loss between processes."""
    wrapped: Any = module
    if world > 1:
        ids = [device.index] if device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(wrapped, device_ids=ids)
    return wrapped


def average(values: list[float], world: int, device: torch.device) -> list[float]:
    """Mean of numbers over all processes."""
    if world < 2 or not values:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device="cpu" if device.type == "cpu" else device)
    torch.distributed.all_reduce(tensor)
    return (tensor / world).tolist()
