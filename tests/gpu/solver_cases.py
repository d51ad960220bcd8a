"""Which checks run on the kernels of solvers and of diagonal chains; nothing here imports torch or Triton."""

from __future__ import annotations

COMBINATIONS = ("values", "splits", "float32_error", "strange_values")
CHAINS = ("chains", "chains_float32", "chains_extremes")
QUICK = (*COMBINATIONS, *CHAINS, "fixed", "adaptive", "strange")
THOROUGH = ("more_fixed", "more_adaptive")
