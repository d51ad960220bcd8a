"""Maps from a free number to a log-scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.numerics.activations import soft_bounded

SMALL = -20.0  # below it log(softplus(a)) is a - exp(a) / 2 to float64


def _tanh(raw: Tensor, bound: float, offset: float, floor: float) -> Tensor:
    return soft_bounded(raw, bound)


def _exp(raw: Tensor, bound: float, offset: float, floor: float) -> Tensor:
    return raw


def _softplus(raw: Tensor, bound: float, offset: float, floor: float) -> Tensor:
    a = raw + offset
    small = a.clamp(max=SMALL)
    return _raised(torch.where(a < SMALL, small - 0.5 * small.exp(), functional.softplus(a.clamp(min=SMALL), threshold=40.0).log()), floor)


def _sigmoid(raw: Tensor, bound: float, offset: float, floor: float) -> Tensor:
    return _raised(functional.logsigmoid(raw + offset), floor)


def _sigmoid_inverse(raw: Tensor, bound: float, offset: float, floor: float) -> Tensor:
    return -_sigmoid(raw, bound, offset, floor)


def _raised(log_scale: Tensor, floor: float) -> Tensor:
    """log(exp(log_scale) + floor)."""
    return torch.logaddexp(log_scale, torch.full_like(log_scale, math.log(floor))) if floor else log_scale


# name -> raw, bound, offset, floor -> log-scale
SCALE_MAPS: dict[str, Callable[[Tensor, float, float, float], Tensor]] = {
    "tanh": _tanh,
    "exp": _exp,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "sigmoid_inverse": _sigmoid_inverse,
}
OFFSETS = {"softplus": math.log(math.expm1(1.0 - 1e-3)), "sigmoid": 2.0, "sigmoid_inverse": 2.0}
NEAR_ONE = 0.97  # of a sigmoid, where training starts: its own limit of one has no gradient


def start_raw(scale: str, offset: float, floor: float) -> float:
    """The number at which the scale is 1, or as close to 1 as a sigmoid gets before it saturates."""
    if scale == "softplus":
        return math.log(math.expm1(max(1.0 - floor, 1e-3))) - offset
    if scale in ("sigmoid", "sigmoid_inverse"):
        share = min(1.0 - floor, NEAR_ONE)
        return math.log(share / (1.0 - share)) - offset
    return 0.0
