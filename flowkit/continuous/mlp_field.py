"""Fully connected velocity fields."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.continuous._activations import ACTIVATIONS, check_activation
from flowkit.continuous._calls import check_call, hidden_sizes, time_like
from flowkit.continuous._trace import trace_of_layers
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, positive, whole_number
from flowkit.core.vector_field import VectorField


@FIELDS.register("mlp_field")
class MLPField(VectorField):
    """A multilayer perceptron of (x, t, context) as velocity, with an exact divergence that needs no automatic differentiation.

        h_1 = act(W_1 x + r t + C context + b_1),  h_k = act(W_k h_{k-1} + b_k),  v = W_n h_{n-1} + b_n

    The divergence costs O(w) for a sample with one hidden layer and O(w^2), whatever d, with two: div v = s_2' K s_1 with
    K = W_2 * (W_1 W_n)' and s_k = act'(a_k). Deeper nets carry the Jacobian's rows along, O(d w^2) for a layer.

    Args:
        features: d.
        hidden: widths of the hidden layers, at least one.
        activation: "tanh", "softplus", "silu", "gelu", "elu" or "selu".
        context_features: size of the context's last axis.

    Shapes: t () or (*B), x (*B, d), context (*B, context_features) -> (*B, d).

    Reference: Chen et al. (2018), Neural Ordinary Differential Equations, arXiv:1806.07366.

    Example:
        >>> import torch
        >>> from flowkit.continuous import MLPField
        >>> field, x = MLPField(3), torch.zeros(5, 3)
        >>> v, divergence = field.velocity_and_divergence(torch.tensor(0.5), x)
        >>> v.shape, divergence.shape
        (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), *, activation: str = "tanh", context_features: int = 0) -> None:
        super().__init__()
        self.features, self.hidden = positive(features, "MLPField", "features"), hidden_sizes(hidden, "MLPField")
        self.context_features = whole_number(context_features, "MLPField", "context_features", 0)
        self.activation = check_activation(activation, "MLPField")
        self.event_shape, self.context_shape = (self.features,), (self.context_features,) if self.context_features else None
        sizes = [self.features, *self.hidden, self.features]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))
        self.time = nn.Parameter(torch.empty(sizes[1]))
        self.context_layer = nn.Linear(self.context_features, sizes[1], bias=False) if self.context_features else None
        bound = 1 / math.sqrt(self.features + 1 + self.context_features)  # as one layer of (x, t, context) would start
        for parameter in (*self.layers[0].parameters(), self.time, *(() if self.context_layer is None else self.context_layer.parameters())):
            nn.init.uniform_(parameter, -bound, bound)

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        act, layers = ACTIVATIONS[self.activation][0], self._linear()
        h = act(self._first(t, x, context))
        for layer in layers[1:-1]:
            h = act(functional.linear(h, layer.weight, layer.bias))
        return functional.linear(h, layers[-1].weight, layers[-1].bias)

    def divergence(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:  # type: ignore[override]
        """Trace of dv/dx, exact: (*B)."""
        return trace_of_layers([layer.weight for layer in self._linear()], self._sweep(t, x, context)[1])

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Both from one pass through the hidden layers: (*B, d) and (*B)."""
        layers = self._linear()
        h, slopes = self._sweep(t, x, context)
        return functional.linear(h, layers[-1].weight, layers[-1].bias), trace_of_layers([layer.weight for layer in layers], slopes)

    def trajectory_weights(self, context: Context = None) -> dict[str, Any] | None:
        """The arguments of ``kernels.mlp_trajectory`` that describe this field; None where it has not two hidden layers of one width."""
        if len(self.hidden) != 2 or self.hidden[0] != self.hidden[1]:
            return None
        first, second, last = self._linear()
        bias = first.bias if self.context_layer is None else first.bias + self._context(context)
        none = first.weight.new_zeros
        weights = {"W1": first.weight, "b1": bias, "r1": self.time, "W2": second.weight, "b2": second.bias, "r2": none(len(self.time))}
        return {**weights, "W3": last.weight, "b3": last.bias, "r3": none(self.features), "gates": none(0, 2), "activation": self.activation}

    def _linear(self) -> list[Any]:
        return list(self.layers)

    def _context(self, context: Context) -> Tensor:
        assert self.context_layer is not None and isinstance(context, Tensor)
        return functional.linear(context.to(self.time.dtype), self.context_layer.weight)

    def _first(self, t: Tensor, x: Tensor, context: Context) -> Tensor:
        """The first layer before its activation; a time common to the batch costs one vector of the layer's width."""
        check_call(self, x, context)
        layer, time = self._linear()[0], time_like(t, x)
        if time.dim() == 0:
            a = functional.linear(x, layer.weight, torch.addcmul(layer.bias, self.time, time))
        else:
            a = torch.addcmul(functional.linear(x, layer.weight, layer.bias), time.unsqueeze(-1), self.time)
        return a if self.context_layer is None else a + self._context(context)

    def _sweep(self, t: Tensor, x: Tensor, context: Context) -> tuple[Tensor, list[Tensor]]:
        """The last hidden layer and the slopes of the activations in all of them."""
        act = ACTIVATIONS[self.activation][1]
        h, slope = act(self._first(t, x, context))
        slopes = [slope]
        for layer in self._linear()[1:-1]:
            h, slope = act(functional.linear(h, layer.weight, layer.bias))
            slopes.append(slope)
        return h, slopes

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MLPField]]:
        yield "two_hidden", cls(3, (8, 8))
        yield "conditional", cls(2, (7, 5), activation="silu", context_features=2)
        yield "deep", cls(3, (6, 7, 5), activation="softplus")
        yield "one_hidden", cls(1, (6,), activation="gelu")
