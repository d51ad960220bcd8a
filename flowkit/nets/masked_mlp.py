"""Masked networks: each output depends on the inputs a matrix allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ShapeError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._dense import DenseLayers, is_plain, read_layers
from flowkit.nets._masked_linear import MaskedLinear
from flowkit.nets._parts import ACTIVATIONS, activation_module
from flowkit.nets._steps import Layer, Levels, Run, Stack, Steps, can_be_stepped, name_of


@NETS.register("masked_mlp", "made")
class MaskedMLP(nn.Module):
    """Perceptron whose output group i sees input j only where ``adjacency[i, j]`` holds; a context reaches every output.

    Each hidden unit is given the input set of one row of the matrix. It reads from units whose set is contained in its
    own, so that sets only ever grow towards the outputs. For an ordering this is MADE's degree rule; any matrix works.
    Where a layer has fewer units than there are sets, its units are spread over them, and a masked linear map from the
    inputs to the outputs, zero at the start, keeps every allowed dependence.

    Args:
        adjacency: boolean matrix (out_groups, in_features).
        outputs_per_group: numbers per output group.
        hidden: widths of the hidden layers.
        context_features: size of the context's last axis.
        activation: as for ``MLP``.

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, out_groups * outputs_per_group), group by group.

    Reference: Germain et al. (2015), MADE, arXiv:1502.03509, equations 10 to 14, with sets in place of degrees.
    """

    def __init__(
        self,
        adjacency: Tensor,
        outputs_per_group: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        outputs_per_group = positive(outputs_per_group, "MaskedMLP", "outputs_per_group")
        context_features = whole_number(context_features, "MaskedMLP", "context_features", 0)
        adjacency = torch.as_tensor(adjacency, dtype=torch.bool)
        if adjacency.dim() != 2:
            raise ShapeError(f"MaskedMLP: expected adjacency of shape (out_groups, in_features); got {tuple(adjacency.shape)}.")
        self.adjacency, self.outputs_per_group, self.hidden = adjacency, outputs_per_group, positive_sizes(hidden, "MaskedMLP", "hidden")
        self.context_features, self.activation = context_features, activation
        self.in_features = adjacency.shape[1]
        self.out_features = adjacency.shape[0] * outputs_per_group
        sets = torch.unique(adjacency, dim=0)
        if not context_features and bool(adjacency.any()):
            sets = sets[sets.any(dim=1)]  # without a context, units that see nothing would be dead weight
        seen, masks = torch.eye(self.in_features, dtype=torch.bool), []
        for width in hidden:
            units = sets[_spread(positive(width, "MaskedMLP", "hidden width"), len(sets))]
            masks.append(_contained(seen, units))
            seen = units
        outputs = adjacency.repeat_interleave(outputs_per_group, dim=0)
        masks.append(_contained(seen, outputs))
        self.layers = nn.ModuleList(MaskedLinear(mask) for mask in masks)
        self.act = activation_module(activation)
        self.context_layer = nn.Linear(context_features, masks[0].shape[0], bias=False) if context_features else None
        self.skip: MaskedLinear | None = None
        if min(hidden, default=len(sets)) < len(sets):
            self.skip = MaskedLinear(torch.cat([outputs, outputs.new_ones(len(outputs), context_features)], dim=1), bias=False)
            nn.init.zeros_(self.skip.weight)
        self.steps = nn.ModuleDict()

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return self.layers[-1]  # type: ignore[return-value]

    def dependence(self) -> Tensor:
        """Which x reaches which output: boolean (out_features, in_features)."""
        return self.adjacency.repeat_interleave(self.outputs_per_group, dim=0)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.layers[0](x)
        if self.context_layer is not None and context is not None:
            h = h + self.context_layer(context.to(x.dtype))
        for layer in self.layers[1:]:
            h = layer(self.act(h))
        if self.skip is not None:
            h = h + self.skip(functional.pad(x, (0, self.context_features)) if context is None else torch.cat([x, context.to(x.dtype)], dim=-1))
        return h

    def dense_layers(self, context: Tensor | None = None) -> DenseLayers | None:
        """The weights, for inputs with the context after x; None where the net must be called: a layer was replaced, or has a hook."""
        if type(self).forward is not MaskedMLP.forward or self.skip is not None or not is_plain(self, self.layers):
            return None
        between = [part for layer in self.layers for part in (layer, self.act)][:-1]
        tensors = read_layers(between, MaskedLinear, ACTIVATIONS[self.activation])
        if tensors is None or (self.context_layer is not None and (type(self.context_layer) is not nn.Linear or not is_plain(self.context_layer))):
            return None
        weights = list(tensors)
        for place, layer in enumerate(self.layers):
            weights[2 * place] = layer.mask * weights[2 * place]  # type: ignore[operator]
        if self.context_layer is not None and context is not None:
            weights[0] = torch.cat([weights[0], self.context_layer.weight], dim=1)
        return DenseLayers(tuple(weights), self.activation)

    def arrange_steps(self, levels: Levels) -> str:
        """Prepare for inputs that become known in these levels, outputs wanted at the level of their input. Returns the key for ``start_steps``."""
        key = name_of(levels)
        self.steps[key] = Steps([layer.mask.bool() for layer in self.layers], levels)  # type: ignore[union-attr, operator]
        return key

    def start_steps(self, key: str, x: Tensor, context: Tensor | None = None) -> Run | None:
        """An evaluation of x whose inputs come level by level, for about the cost of one pass; None where the net must be called."""
        linear, skip, act = (*self.layers,), self.skip, self.act
        if key not in self.steps or not can_be_stepped(self, (*linear, skip), (act, self.context_layer)):
            return None
        layers = [Layer(layer.weight, layer.bias, layer.mask) for layer in linear]  # type: ignore[arg-type]
        direct = None if skip is None else Layer(skip.weight[:, : self.in_features], None, skip.mask[:, : self.in_features])
        if context is not None and self.context_layer is not None:
            context = context.to(x.dtype).reshape(-1, self.context_features)
            layers[0] = layers[0]._replace(offset=self.context_layer(context))
            if skip is not None:  # no mask: a context reaches every output
                layers[-1] = layers[-1]._replace(offset=functional.linear(context, skip.weight[:, self.in_features :]))
        return Run(Stack(cast(Steps, self.steps[key]), layers, act, direct), x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MaskedMLP]]:
        order = torch.ones(3, 3, dtype=torch.bool).tril(-1)
        yield "ordered", cls(order, 2, (8, 8))
        yield "conditional", cls(order, 2, (8,), context_features=2)


def _spread(width: int, count: int) -> Tensor:
    """Which of ``count`` sets each unit gets: evenly, the first and the last included (the last alone for one unit)."""
    return torch.arange(width) % count if width >= count else torch.linspace(count - 1, 0, width).round().long()


def _contained(inner: Tensor, outer: Tensor) -> Tensor:
    """mask[i, j]: set ``inner[j]`` is contained in set ``outer[i]``."""
    return ~(inner[None] & ~outer[:, None]).any(-1)
