"""Smooth activations of velocity fields, each with its slope, as the exact divergence needs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.errors import ConfigError

Values = Callable[[Tensor], Tensor]
ValuesAndSlopes = Callable[[Tensor], tuple[Tensor, Tensor]]


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(a)
    return h, 1 - h * h


def softplus(a: Tensor) -> Tensor:
    """log(1 + e^a), linear only where float64 rounds it to that: torch's own threshold of 20 is wrong by 2e-9."""
    return functional.softplus(a, threshold=50.0)


def log_cosh(a: Tensor) -> Tensor:
    """log(2 cosh a), the integral of tanh."""
    return 2 * functional.softplus(a, beta=2.0, threshold=50.0) - a


def _softplus(a: Tensor) -> tuple[Tensor, Tensor]:
    return softplus(a), torch.sigmoid(a)


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    on = torch.sigmoid(a)
    h = a * on
    return h, torch.addcmul(on, h, 1 - on)


def _gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    below = torch.special.ndtr(a)
    return a * below, below + a * torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)


def _elu(a: Tensor) -> tuple[Tensor, Tensor]:
    return functional.elu(a), a.clamp(max=0).exp()


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _selu(a: Tensor) -> tuple[Tensor, Tensor]:
    return functional.selu(a), _SELU_SCALE * torch.where(a > 0, 1.0, _SELU_ALPHA * a.clamp(max=0).exp())


def _tanh_curved(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h, s = _tanh(a)
    return h, s, -2 * h * s


def _softplus_curved(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h, s = _softplus(a)
    return h, s, s * (1 - s)


def _silu_curved(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h, s = _silu(a)
    on = torch.sigmoid(a)
    return h, s, on * (1 - on) * (2 + a * (1 - 2 * on))


def _gelu_curved(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h, s = _gelu(a)
    return h, s, (2 - a * a) * torch.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)


def _log_cosh_curved(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.tanh(a)
    return log_cosh(a), s, 1 - s * s


ACTIVATIONS: dict[str, tuple[Values, ValuesAndSlopes]] = {
    "tanh": (torch.tanh, _tanh),
    "softplus": (softplus, _softplus),
    "silu": (functional.silu, _silu),
    "gelu": (functional.gelu, _gelu),
    "elu": (functional.elu, _elu),
    "selu": (functional.selu, _selu),
}


# with slope and curvature, for fields that are gradients of a potential
CURVED: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "tanh": _tanh_curved,
    "softplus": _softplus_curved,
    "silu": _silu_curved,
    "gelu": _gelu_curved,
    "log_cosh": _log_cosh_curved,
}


def check_activation(name: str, who: str, among: Collection[str] = ACTIVATIONS) -> str:
    """Check the name of an activation."""
    if not isinstance(name, str) or name not in among:
        raise ConfigError(f"{who}: expected activation to be one of {', '.join(among)}; got {name!r}.")
    return name
