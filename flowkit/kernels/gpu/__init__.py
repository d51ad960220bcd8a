"""Kernels in Triton for CUDA tensors. Nothing here imports Triton until a kernel is launched."""
