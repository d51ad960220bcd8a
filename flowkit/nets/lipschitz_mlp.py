"""Fully connected networks with a Lipschitz constant below 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.registry import NETS
from flowkit.core.shapes import Shape, positive, positive_sizes, whole_number
from flowkit.nets._lipschitz import LipschitzNet, bounded_weight, check_coefficient, lipschitz_activation


@NETS.register("lipschitz_mlp")
class LipschitzMLP(LipschitzNet):
    """Multilayer perceptron with |g(x, c) - g(y, c)| <= coefficient |x - y| in the 2-norm, for every parameter value.

    Each weight matrix is divided by its exact spectral norm where that exceeds the layer's share of the bound, the L-th root
    of ``coefficient``; the activations have slope at most 1. Nothing is stored or mutated. The context is added to every
    layer's output through a matrix of its own, which leaves the bound in x as it is.

    Args:
        in_features: size of x's last axis.
        out_features: size of the output's last axis.
        hidden: widths of the hidden layers.
        context_features: size of the context's last axis.
        activation: "lip_swish", "clip_swish" (twice as wide), "elu" or "tanh".
        coefficient: the Lipschitz bound, at most 0.999.

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, out_features).

    Reference: Behrmann et al. (2019), Invertible Residual Networks, arXiv:1811.00995, section 2.1; Chen et al. (2019),
    Residual Flows, arXiv:1906.02735.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "lip_swish",
        coefficient: float = 0.97,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, "LipschitzMLP", "context_features", 0)
        self.in_features, self.out_features = positive(in_features, "LipschitzMLP", "in_features"), positive(out_features, "LipschitzMLP", "out_features")
        self.hidden, self.context_features, self.activation = positive_sizes(hidden, "LipschitzMLP", "hidden"), context_features, activation
        self.coefficient = check_coefficient(coefficient, "LipschitzMLP")
        widths = [positive(width, "LipschitzMLP", "hidden width") for width in self.hidden]
        activations = [lipschitz_activation(activation) for _ in widths]
        befores = [self.in_features, *(part.outputs * width for part, width in zip(activations, widths, strict=True))]
        afters = [*widths, self.out_features]
        layers = [nn.Linear(before, after) for before, after in zip(befores, afters, strict=True)]
        self._place(activations, layers, afters, context_features)

    @property
    def in_shape(self) -> Shape:
        """Event shape of x."""
        return (self.in_features,)

    def at(self, context: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        share = self.coefficient ** (1 / len(self.layers))
        weights = [bounded_weight(weight, share) for weight in self._weights()]
        shifts = self._shifts(context)

        def function(x: Tensor) -> Tensor:
            for weight, shift, activation in zip(weights[:-1], shifts[:-1], self.activations, strict=True):
                x = activation(functional.linear(x, weight) + shift)
            return functional.linear(x, weights[-1]) + shifts[-1]

        return function

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LipschitzMLP]]:
        yield "plain", cls(3, 3, (8, 8))
        yield "conditional", cls(3, 4, (8,), context_features=2, activation="clip_swish")
        yield "elu", cls(2, 2, (8,), activation="elu", coefficient=0.8)
