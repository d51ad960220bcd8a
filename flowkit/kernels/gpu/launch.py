"""Starting a Triton kernel: the one place where the launchers of this folder meet the device."""

from __future__ import annotations

import contextlib
import importlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def power(least: int) -> int:
    """The smallest power of two of at least that much."""
    return 1 << max(0, least - 1).bit_length()


def start(source: str, kernel: str, programs: int, arguments: tuple[Any, ...], constants: dict[str, Any], **options: Any) -> None:
    """Start a kernel on the device of its first argument, without waiting for it.

    Args:
        source: the module of this folder that holds the kernel.
        kernel: its name there.
        programs: of the grid.
        arguments: tensors and numbers, a tensor first.
        constants: what the kernel is compiled for.
        options: of the compiler.
    """
    module = importlib.import_module(f"flowkit.kernels.gpu.{source}")
    first: Tensor = arguments[0]
    device: AbstractContextManager[Any] = torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext()
    with device:
        getattr(module, kernel)[(programs,)](*arguments, **constants, **options)
