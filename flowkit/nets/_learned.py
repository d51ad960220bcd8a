"""Parameters of a map that are learned, and shifted by the context where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.nets.mlp import MLP


class Learned(nn.Module):
    """Named parameter tensors; with a context each is its own learned value plus a net of the context that starts at zero.

    Args:
        start: name -> value (*shape) that training starts from.
        context_features: size of the context's last axis; 0 for none.
        hidden: widths of the net's hidden layers.
        activation: of the net.
        owner: a module that holds the values as its own parameters, each under its name, and gives them with every call;
            default: they are held here, in ``values``.
    """

    def __init__(
        self,
        start: Mapping[str, Tensor],
        context_features: int = 0,
        hidden: Sequence[int] = (),
        activation: str = "silu",
        *,
        owner: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(value.shape) for name, value in start.items()}
        parameters = {name: nn.Parameter(value.clone()) for name, value in start.items()}
        self.values = nn.ParameterDict({} if owner is not None else parameters)
        if owner is not None:
            for name, parameter in parameters.items():
                owner.register_parameter(name, parameter)
        self.net: MLP | None = None
        if context_features:
            self.net = MLP(0, sum(value.numel() for value in start.values()), tuple(hidden), context_features=context_features, activation=activation)
            nn.init.zeros_(self.net.last.weight)
            nn.init.zeros_(self.net.last.bias)

    def forward(self, context: Any = None, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """name -> (*shape) without a context, (*B, *shape) with one of shape (*B, context_features)."""
        own: Mapping[str, Tensor] = dict(self.values.items()) if values is None else values
        if self.net is None:
            return dict(own)
        first = next(iter(own.values()))
        shifts = self.net(context.new_zeros((*context.shape[:-1], 0)), context).to(first.dtype)
        parts = shifts.split([torch.Size(shape).numel() for shape in self.shapes.values()], dim=-1)
        return {name: own[name] + part.reshape((*part.shape[:-1], *self.shapes[name])) for name, part in zip(self.shapes, parts, strict=True)}
