"""Densely connected networks with a Lipschitz constant below 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.registry import NETS
from flowkit.core.shapes import Shape, positive, positive_sizes, whole_number
from flowkit.nets._lipschitz import LipschitzNet, bounded_weight, check_coefficient, lipschitz_activation


@NETS.register("lipschitz_dense_mlp")
class LipschitzDenseMLP(LipschitzNet):
    """The net of an i-DenseNet: h <- (a h, b act(W h + s)) with learned a, b > 0, a^2 + b^2 = 1, then a last linear layer.

    A concatenation of two maps of Lipschitz constant 1 so weighted has Lipschitz constant at most 1; every W has an exact
    spectral norm of at most 1 and the last layer of at most ``coefficient``, which therefore bounds the whole, for every
    parameter value. Earlier features reach the output without passing through all layers, so less of the bound is wasted
    than in ``LipschitzMLP``. Nothing is stored or mutated; the context is added inside every layer.

    Args:
        in_features, out_features, context_features, coefficient: as for ``LipschitzMLP``.
        hidden: how many features each layer adds; "clip_swish" adds twice as many.
        activation: "clip_swish", "lip_swish", "elu" or "tanh".

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, out_features).

    Reference: Perugachi-Diaz et al. (2021), Invertible DenseNets with Concatenated LipSwish, arXiv:2102.02694.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (32, 32),
        *,
        context_features: int = 0,
        activation: str = "clip_swish",
        coefficient: float = 0.97,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, "LipschitzDenseMLP", "context_features", 0)
        who = "LipschitzDenseMLP"
        self.in_features, self.out_features = positive(in_features, who, "in_features"), positive(out_features, who, "out_features")
        self.hidden, self.context_features, self.activation = positive_sizes(hidden, "LipschitzDenseMLP", "hidden"), context_features, activation
        self.coefficient = check_coefficient(coefficient, who)
        activations = [lipschitz_activation(activation) for _ in self.hidden]
        layers, width = [], self.in_features
        for part, growth in zip(activations, self.hidden, strict=True):
            layers.append(nn.Linear(width, positive(growth, who, "hidden width")))
            width += part.outputs * growth
        self._place(activations, [*layers, nn.Linear(width, self.out_features)], [*self.hidden, self.out_features], context_features)
        self.mix = nn.Parameter(torch.zeros(len(self.hidden)))  # logits of b^2: equal shares at 0

    @property
    def in_shape(self) -> Shape:
        """Event shape of x."""
        return (self.in_features,)

    def at(self, context: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        *raw, final = self._weights()
        weights, last = [bounded_weight(weight, 1.0) for weight in raw], bounded_weight(final, self.coefficient)
        shifts = self._shifts(context)
        kept, added = torch.sigmoid(-self.mix).sqrt(), torch.sigmoid(self.mix).sqrt()  # squares add up to 1

        def function(x: Tensor) -> Tensor:
            for i, (weight, activation) in enumerate(zip(weights, self.activations, strict=True)):
                x = torch.cat([kept[i] * x, added[i] * activation(functional.linear(x, weight) + shifts[i])], dim=-1)
            return functional.linear(x, last) + shifts[-1]

        return function

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LipschitzDenseMLP]]:
        yield "plain", cls(3, 3, (4, 4))
        yield "conditional", cls(3, 4, (6,), context_features=2, activation="lip_swish")
