"""What a context adds to the parameters of a map that keeps them as attributes of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor, nn

from flowkit.nets import MLP


class ContextShift(nn.Module):
    """A net of the context whose outputs, zero at the start, are cut into named shifts.

    Args:
        shapes: name -> shape of the parameter.
        context_features: size of the context's last axis.
        hidden: widths of the net's hidden layers.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], context_features: int, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.net = MLP(0, sum(prod(shape) for shape in shapes.values()), tuple(hidden), context_features=context_features, activation="silu")
        nn.init.zeros_(self.net.last.weight)
        nn.init.zeros_(self.net.last.bias)

    def forward(self, context: Tensor) -> dict[str, Tensor]:
        """Context (*B, context_features) -> name -> (*B, *shape)."""
        shifts = self.net(context.new_zeros((*context.shape[:-1], 0)), context)
        parts = shifts.split([prod(shape) for shape in self.shapes.values()], dim=-1)
        return {name: part.reshape(*part.shape[:-1], *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
