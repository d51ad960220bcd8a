"""Fully connected networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._dense import DenseLayers, is_plain, read_layers
from flowkit.nets._parts import ACTIVATIONS, activation_module, join


@NETS.register("mlp")
class MLP(nn.Module):
    """Multilayer perceptron of (x, context).

    Args:
        in_features: size of x's last axis; may be 0 when there is a context.
        out_features: size of the output's last axis.
        hidden: widths of the hidden layers.
        context_features: size of the context's last axis.
        activation: "relu", "silu", "gelu", "elu", "tanh" or "leaky_relu".

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, out_features).
    """

    def __init__(self, in_features: int, out_features: int, hidden: Sequence[int] = (64, 64), *, context_features: int = 0, activation: str = "relu") -> None:
        super().__init__()
        in_features, out_features = whole_number(in_features, "MLP", "in_features", 0), positive(out_features, "MLP", "out_features")
        context_features = whole_number(context_features, "MLP", "context_features", 0)
        self.in_features, self.out_features, self.hidden = in_features, out_features, positive_sizes(hidden, "MLP", "hidden")
        self.context_features, self.activation = context_features, activation
        sizes = [in_features + context_features, *(positive(width, "MLP", "hidden width") for width in hidden)]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), activation_module(activation, owns_input=True)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(sizes[-1], out_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.last(self.layers(join(x, context)))

    def dense_layers(self, context: Tensor | None = None) -> DenseLayers | None:
        """The weights, for inputs with the context after x; None where the net must be called: a layer was replaced, or has a hook."""
        parts = self._modules
        if type(self).forward is not MLP.forward or type(parts["layers"]) is not nn.Sequential or not is_plain(self, parts["layers"]):  # type: ignore[arg-type]
            return None
        tensors = read_layers((*parts["layers"]._modules.values(), parts["last"]), nn.Linear, ACTIVATIONS[self.activation])  # type: ignore
        return None if tensors is None else DenseLayers(tensors, self.activation)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MLP]]:
        yield "plain", cls(3, 4, (8,))
        yield "conditional", cls(3, 4, (8, 8), context_features=2, activation="silu")
