"""Residual fully connected networks gated by a context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._parts import activation_module, join


@NETS.register("gated_residual_mlp")
class GatedResidualMLP(nn.Module):
    """Pre-activation residual network whose blocks are gated by the context: h <- h + W2 a(W1 a(h)) * sigmoid(C context).

    The first layer reads x and the context side by side. Without a context there are no gates, as in ``ResidualMLP``.

    Args:
        in_features, out_features, context_features, activation: as for ``MLP``.
        hidden: one equal width per block.
        dropout: share of units before each block's second layer that are set to zero while training.

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, out_features).

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, for the conditioner; gates as in Dauphin et al. (2017), arXiv:1612.08083.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        in_features, out_features = whole_number(in_features, "GatedResidualMLP", "in_features", 0), positive(out_features, "GatedResidualMLP", "out_features")
        context_features = whole_number(context_features, "GatedResidualMLP", "context_features", 0)
        self.in_features, self.out_features, self.hidden = in_features, out_features, positive_sizes(hidden, "GatedResidualMLP", "hidden")
        self.context_features, self.activation, self.dropout = context_features, activation, dropout
        if len(set(hidden)) != 1:
            raise ConfigError(f"GatedResidualMLP: expected equal hidden widths, one per block; got {tuple(hidden)}.")
        width = positive(self.hidden[0], "GatedResidualMLP", "hidden width")
        self.first = nn.Linear(in_features + context_features, width)
        self.inward, self.outward = nn.ModuleList(nn.Linear(width, width) for _ in hidden), nn.ModuleList(nn.Linear(width, width) for _ in hidden)
        self.gates = nn.ModuleList(nn.Linear(context_features, width) for _ in hidden if context_features)
        self.act, self.drop = activation_module(activation), nn.Dropout(dropout)
        self.last = nn.Linear(width, out_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(join(x, context))
        for number, (inward, outward) in enumerate(zip(self.inward, self.outward, strict=True)):
            step = outward(self.drop(self.act(inward(self.act(h)))))
            if context is not None:
                step = step * torch.sigmoid(self.gates[number](context.to(x.dtype)))
            h = h + step
        return self.last(h)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GatedResidualMLP]]:
        yield "plain", cls(3, 4, (8, 8))
        yield "conditional", cls(3, 4, (8, 8), context_features=2, activation="tanh")
