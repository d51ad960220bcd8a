"""Masked perceptrons whose masks are given layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import whole_number
from flowkit.nets._masked_linear import MaskedLinear, as_masks, through
from flowkit.nets._parts import activation_module, join
from flowkit.nets._steps import Layer, Levels, Run, Stack, Steps, can_be_stepped, name_of


@NETS.register("masked_layers")
class MaskedLayers(nn.Module):
    """Perceptron with a mask of its own for every layer: for masked networks made elsewhere, whose masks are to be kept.

    ``MaskedMLP`` chooses the masks from what may depend on what. The context enters the first layer in one of two ways:
    ``joined``, as columns of the first mask after those of x, or ``added``, h = M_1 x + a(C context), C dense.

    Args:
        masks: boolean matrices (out, in), one per layer, inputs first.
        context_features: size of the context's last axis.
        context: how the context enters.
        activation: as for ``MLP``.
        dropout: share of hidden units set to zero while training, in every hidden layer but the first.

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, rows of the last mask).

    Reference: Germain et al. (2015), MADE, arXiv:1502.03509.
    """

    def __init__(
        self,
        masks: Sequence[Tensor],
        *,
        context_features: int = 0,
        context: Literal["joined", "added"] = "joined",
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, "MaskedLayers", "context_features", 0)
        self.masks = as_masks(masks, 1, "MaskedLayers")
        if context not in ("joined", "added"):
            raise ConfigError(f"MaskedLayers: expected context to be 'joined' or 'added'; got {context!r}.")
        self.context_features, self.context, self.activation, self.dropout = context_features, context, activation, dropout
        self.in_features = self.masks[0].shape[1] - (context_features if context == "joined" else 0)
        self.out_features = self.masks[-1].shape[0]
        if self.in_features < 0:
            raise ConfigError(f"MaskedLayers: {context_features} context features in a first mask of {self.masks[0].shape[1]} columns.")
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in self.masks)
        self.act, self.drop = activation_module(activation), nn.Dropout(dropout)
        self.context_layer = nn.Linear(context_features, self.masks[0].shape[0]) if context_features and context == "added" else None
        self.steps = nn.ModuleDict()

    def dependence(self) -> Tensor:
        """Which x reaches which output: boolean (out_features, in_features)."""
        return through(self.masks)[:, : self.in_features]

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return self.layers[-1]  # type: ignore[return-value]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        if self.context_layer is None:
            h = self.layers[0](join(x, context))
        else:
            assert context is not None
            h = self.layers[0](x) + self.act(self.context_layer(context.to(x.dtype)))
        for number, layer in enumerate(self.layers[1:]):
            h = self.act(h)
            h = layer(self.drop(h) if number else h)
        return h

    def arrange_steps(self, levels: Levels) -> str:
        """Prepare for inputs that become known in these levels, outputs wanted at the level of their input. Returns the key for ``start_steps``."""
        key = name_of(levels)
        self.steps[key] = Steps([self.masks[0][:, : self.in_features], *self.masks[1:]], levels)
        return key

    def start_steps(self, key: str, x: Tensor, context: Tensor | None = None) -> Run | None:
        """An evaluation of x whose inputs come level by level, for about the cost of one pass; None where the net must be called."""
        drops = self.training and self.dropout > 0
        if key not in self.steps or drops or not can_be_stepped(self, self.layers, (self.act, self.drop, self.context_layer)):
            return None
        layers = [Layer(layer.weight, layer.bias, layer.mask) for layer in self.layers]  # type: ignore[arg-type]
        first = layers[0]
        assert first.mask is not None
        layers[0] = first._replace(weight=first.weight[:, : self.in_features], mask=first.mask[:, : self.in_features])
        if context is not None:
            context = context.to(x.dtype).reshape(-1, self.context_features)
            added, columns = self.context_layer, slice(self.in_features, None)
            offset = functional.linear(context, first.mask[:, columns] * first.weight[:, columns]) if added is None else self.act(added(context))
            layers[0] = layers[0]._replace(offset=offset)
        return Run(Stack(cast(Steps, self.steps[key]), layers, self.act), x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MaskedLayers]]:
        degrees = torch.arange(4) % 2
        first, inner, last = degrees[:, None] >= torch.arange(3), degrees[:, None] >= degrees, torch.arange(3).repeat_interleave(2)[:, None] > degrees
        yield "plain", cls((first, inner, last))
        yield "context_added", cls((first, inner, last), context_features=2, context="added", activation="tanh")
        yield "context_joined", cls((torch.cat([first, first.new_ones(4, 2)], dim=1), last), context_features=2)
