"""Which checks run on which Triton maps; nothing here imports torch or Triton."""

from __future__ import annotations

CHECKS = ("values", "all_constants", "long_rows", "many_bins", "float32_error", "half_precision", "layouts", "memory", "strange_values", "operator")
MAPS = ("rational_quadratic_spline", "piecewise_linear_spline", "piecewise_quadratic_spline", "bounded_affine", "affine", "logistic_mixture_cdf")
OPS = tuple(direction + name for name in MAPS for direction in ("", "inverse_"))
THOROUGH = tuple((check, op) for check in CHECKS for op in OPS)

_FIRST = ("rational_quadratic_spline", "inverse_rational_quadratic_spline", "bounded_affine", "inverse_bounded_affine")
_ALL_MAPS = ("all_constants", "long_rows", "memory")
_SHARED = ("half_precision", "layouts")  # a matter of what the maps share
QUICK = tuple((check, op) for check, op in THOROUGH if (op in _FIRST[::2] if check in _SHARED else op in _FIRST or check in _ALL_MAPS))
