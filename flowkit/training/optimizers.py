"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from flowkit.core.errors import ConfigError, UnknownNameError, nearest
from flowkit.core.objective import Phase

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
# fused: one kernel for the whole update, on CPUs too
_OPTIONS: dict[str, dict[str, Any]] = {"adamw": {"fused": True}, "adam": {"fused": True}, "sgd": {"momentum": 0.9, "fused": True}}


def check_optimizer(name: str) -> None:
    """Raise UnknownNameError unless there is an optimiser of that name."""
    if name not in _OPTIMIZERS:
        raise UnknownNameError(f"fit: no optimizer named {name!r}. {nearest(name, _OPTIMIZERS)}")


def make_optimizer(name: str, phase: Phase, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of a phase; its learning rate is set anew every step by ``schedule_factor``."""
    check_optimizer(name)
    if not phase.parameters:
        raise ConfigError(f"fit: phase '{phase.name}' has no parameter to train. Unfreeze some, or check the model.")
    decay = weight_decay if phase.weight_decay is None else phase.weight_decay
    options: dict[str, Any] = dict(_OPTIONS.get(name, {}))
    made = _OPTIMIZERS[name](_groups(phase), lr=lr, weight_decay=decay, **options)
    set_rate(made, phase, lr)
    return made


def _groups(phase: Phase) -> list[dict[str, Any]]:
    """One group of parameters for each factor of the learning rate."""
    scales = [1.0] * len(phase.parameters) if phase.lr_scales is None else list(phase.lr_scales)
    chosen: dict[float, list[torch.nn.Parameter]] = {}
    for parameter, scale in zip(phase.parameters, scales, strict=True):
        chosen.setdefault(scale, []).append(parameter)
    return [{"params": parameters, "lr_scale": scale} for scale, parameters in chosen.items()]


def set_rate(optimizer: torch.optim.Optimizer, phase: Phase, lr: float) -> None:
    """Give every group of a phase's optimiser its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * phase.lr_scale * group.get("lr_scale", 1.0)  # checkpoints of older versions have none


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1.0 - progress


def _one_cycle(progress: float) -> float:
    """Cosine from 1/25 up to 1 over the first 30 %, then down to 1/10000 (Smith and Topin 2019, arXiv:1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * (1 - _cosine(progress / 0.3))
    return 1e-4 + (1 - 1e-4) * _cosine((progress - 0.3) / 0.7)


_SCHEDULES: dict[str, Callable[[float], float]] = {"constant": _constant, "cosine": _cosine, "linear": _linear, "one_cycle": _one_cycle}


def schedule_factor(name: str, step: int, total: int) -> float:
    """What the learning rate is multiplied with at a step, 0 <= step < total."""
    if name not in _SCHEDULES:
        raise UnknownNameError(f"fit: no schedule named {name!r}. {nearest(name, _SCHEDULES)}")
    return _SCHEDULES[name](step / max(1, total))
