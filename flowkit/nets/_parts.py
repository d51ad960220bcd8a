"""Activations by name and the joining of inputs with a context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowkit.core.errors import UnknownNameError, nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


def activation_module(name: str, *, owns_input: bool = False) -> nn.Module:
    """The activation of that name; ``owns_input`` where nobody else holds its input, so that it may be written over."""
    if name not in ACTIVATIONS:
        raise UnknownNameError(f"No activation named {name!r}. {nearest(name, ACTIVATIONS)}")
    return nn.ReLU(inplace=True) if owns_input and name == "relu" else ACTIVATIONS[name]()


def join(x: Tensor, context: Tensor | None) -> Tensor:
    """Concatenate along the last axis, broadcasting the batches: (*B, D), (*Bc, C) -> (*B, D + C)."""
    if context is None:
        return x
    batch = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
    return torch.cat([x.expand(*batch, x.shape[-1]), context.expand(*batch, context.shape[-1]).to(x.dtype)], dim=-1)
