"""Parameters of a map that are learned, and shifted by the context where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.nets import MLP


class Learned(nn.Module):
    """Named parameter tensors; with a context each is its own learned value plus a net of the context that starts at zero.

    Args:
        start: name -> value (*shape) that training starts from.
        context_features: size of the context's last axis; 0 for none.
        hidden: widths of the net's hidden layers.
        activation: of the net.
    """

    def __init__(self, start: Mapping[str, Tensor], context_features: int = 0, hidden: Sequence[int] = (), activation: str = "silu") -> None:
        super().__init__()
        self.values = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in start.items()})
        self.shapes = {name: tuple(value.shape) for name, value in start.items()}
        self.net: MLP | None = None
        if context_features:
            self.net = MLP(0, sum(value.numel() for value in start.values()), tuple(hidden), context_features=context_features, activation=activation)
            nn.init.zeros_(self.net.last.weight)
            nn.init.zeros_(self.net.last.bias)

    def forward(self, context: Any = None) -> dict[str, Tensor]:
        """name -> (*shape) without a context, (*B, *shape) with one of shape (*B, context_features)."""
        if self.net is None:
            return dict(self.values.items())
        first = next(iter(self.values.values()))
        shifts = self.net(context.new_zeros((*context.shape[:-1], 0)), context).to(first.dtype)
        parts = shifts.split([torch.Size(shape).numel() for shape in self.shapes.values()], dim=-1)
        return {name: self.values[name] + part.reshape((*part.shape[:-1], *self.shapes[name])) for name, part in zip(self.shapes, parts, strict=True)}
