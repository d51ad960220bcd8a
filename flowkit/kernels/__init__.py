"""Numeric operations that maps are built from: a reference in plain torch each, and for some a fused kernel (``flowkit list kernels``)."""

from typing import Literal

from flowkit.kernels.op import OPS, KernelError, Op, use

__all__ = ["OPS", "KernelError", "Op", "available", "use"]


def available(device: Literal["cpu", "cuda"] = "cpu") -> bool:
    """Whether fused kernels can serve on this machine; where not, plain torch does. The first call may compile those of the CPU.

    Args:
        device: "cpu" or "cuda".

    Example:
        >>> import flowkit.kernels
        >>> isinstance(flowkit.kernels.available(), bool)
        True
    """
    if device == "cpu":
        from flowkit.kernels.cpu.library import unavailable
    else:
        from flowkit.kernels.gpu.scalar_map import unavailable
    return unavailable() is None
