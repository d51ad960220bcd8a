"""Numeric operations that maps are built from: a reference in plain torch each, and for some a fused kernel (``flowkit list kernels``)."""

from flowkit.kernels.op import OPS, KernelError, Op, use

__all__ = ["OPS", "KernelError", "Op", "use"]
