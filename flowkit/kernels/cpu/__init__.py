"""Fused kernels for CPUs: C++ sources, compiled at first use, and what calls them."""
