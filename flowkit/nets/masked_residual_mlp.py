"""Masked residual networks whose masks are given layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from flowkit.core.errors import ShapeError
from flowkit.core.registry import NETS
from flowkit.core.shapes import whole_number
from flowkit.nets._masked_linear import MaskedLinear, as_masks, through
from flowkit.nets._parts import activation_module
from flowkit.nets._steps import Layer, Levels, Run, Stack, Steps, can_be_stepped, name_of


@NETS.register("masked_residual_mlp")
class MaskedResidualMLP(nn.Module):
    """Pre-activation residual network of masked layers: h <- h + W2 a(W1 a(h) + C context), in between a first and a last layer.

    The context also enters the first layer, h = W x + a(C context).

    Args:
        masks: boolean matrices (out, in): the first layer's, two for each block, the last layer's.
        context_features: size of the context's last axis.
        activation: as for ``MLP``.
        dropout: share of units before each block's second layer that are set to zero while training.

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, rows of the last mask).

    Reference: Nash and Durkan (2019), Autoregressive Energy Machines, arXiv:1904.05626, for residual blocks in MADE.
    """

    def __init__(self, masks: Sequence[Tensor], *, context_features: int = 0, activation: str = "relu", dropout: float = 0.0) -> None:
        super().__init__()
        context_features = whole_number(context_features, "MaskedResidualMLP", "context_features", 0)
        self.masks = as_masks(masks, 2, "MaskedResidualMLP")
        width = self.masks[0].shape[0]
        if len(self.masks) % 2 or any(mask.shape[0] != width for mask in self.masks[2:-1:2]):
            raise ShapeError(f"MaskedResidualMLP: expected two masks for each block, back to width {width}; got shapes {[tuple(m.shape) for m in self.masks]}.")
        self.context_features, self.activation, self.dropout = context_features, activation, dropout
        self.in_features, self.out_features = self.masks[0].shape[1], self.masks[-1].shape[0]
        first, *inner, last = self.masks
        self.first, self.last = MaskedLinear(first), MaskedLinear(last)
        self.inward, self.outward = nn.ModuleList(MaskedLinear(mask) for mask in inner[::2]), nn.ModuleList(MaskedLinear(mask) for mask in inner[1::2])
        self.act, self.drop = activation_module(activation), nn.Dropout(dropout)
        widths = [width, *(mask.shape[0] for mask in inner[::2])] if context_features else []
        self.context_layers = nn.ModuleList(nn.Linear(context_features, size) for size in widths)
        self.steps = nn.ModuleDict()

    def dependence(self) -> Tensor:
        """Which x reaches which output: boolean (out_features, in_features)."""
        first, *inner, last = self.masks
        reached = first
        for inward, outward in zip(inner[::2], inner[1::2], strict=True):
            reached = reached | through((reached, inward, outward))
        return through((reached, last))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if self.context_features:
            assert context is not None
            context = context.to(x.dtype)
            h = h + self.act(self.context_layers[0](context))
        for number, (inward, outward) in enumerate(zip(self.inward, self.outward, strict=True)):
            inner = inward(self.act(h))
            if self.context_features:
                inner = inner + self.context_layers[number + 1](context)
            h = h + outward(self.drop(self.act(inner)))
        return self.last(h)

    def arrange_steps(self, levels: Levels) -> str:
        """Prepare for inputs that become known in these levels, outputs wanted at the level of their input. Returns the key for ``start_steps``."""
        key = name_of(levels)
        self.steps[key] = Steps(self.masks, levels, adds=range(3, len(self.masks), 2))
        return key

    def start_steps(self, key: str, x: Tensor, context: Tensor | None = None) -> Run | None:
        """An evaluation of x whose inputs come level by level, for about the cost of one pass; None where the net must be called."""
        stack = [self.first, *(layer for pair in zip(self.inward, self.outward, strict=True) for layer in pair), self.last]
        drops = self.training and self.dropout > 0
        if key not in self.steps or drops or not can_be_stepped(self, stack, (self.act, self.drop, *self.context_layers)):
            return None
        layers = [Layer(layer.weight, layer.bias, layer.mask) for layer in stack]  # type: ignore[arg-type]
        if context is not None:
            context = context.to(x.dtype).reshape(-1, self.context_features)
            for number, layer in enumerate(self.context_layers):
                place = max(2 * number - 1, 0)  # the first layer, then the first of each block
                offset = layer(context) if number else self.act(layer(context))
                layers[place] = layers[place]._replace(offset=offset)
        return Run(Stack(cast(Steps, self.steps[key]), layers, self.act, bare=True), x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MaskedResidualMLP]]:
        degrees = torch.arange(4) % 2
        first, inner, last = degrees[:, None] >= torch.arange(3), degrees[:, None] >= degrees, torch.arange(3).repeat_interleave(2)[:, None] > degrees
        yield "plain", cls((first, inner, inner, last))
        yield "conditional", cls((first, inner, inner, inner, inner, last), context_features=2, activation="tanh")
