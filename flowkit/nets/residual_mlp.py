"""Residual fully connected networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._parts import activation_module, join


@NETS.register("residual_mlp")
class ResidualMLP(nn.Module):
    """Pre-activation residual network of (x, context): h <- h + W2 a(W1 a(h)), one block per hidden width.

    Args:
        in_features, out_features, context_features, activation: as for ``MLP``.
        hidden: one equal width per block.

    Shapes: x (*B, in_features), context (*B, context_features) -> (*B, out_features).
    """

    def __init__(self, in_features: int, out_features: int, hidden: Sequence[int] = (64, 64), *, context_features: int = 0, activation: str = "relu") -> None:
        super().__init__()
        in_features, out_features = whole_number(in_features, "ResidualMLP", "in_features", 0), positive(out_features, "ResidualMLP", "out_features")
        context_features = whole_number(context_features, "ResidualMLP", "context_features", 0)
        self.in_features, self.out_features, self.hidden = in_features, out_features, positive_sizes(hidden, "ResidualMLP", "hidden")
        self.context_features, self.activation = context_features, activation
        if len(set(hidden)) != 1:
            raise ConfigError(f"ResidualMLP: expected equal hidden widths, one per block; got {tuple(hidden)}.")
        width = positive(self.hidden[0], "ResidualMLP", "hidden width")
        self.first = nn.Linear(in_features + context_features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(activation_module(activation), nn.Linear(width, width), activation_module(activation), nn.Linear(width, width)) for _ in hidden
        )
        self.last = nn.Linear(width, out_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(join(x, context))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ResidualMLP]]:
        yield "plain", cls(3, 4, (8, 8))
        yield "conditional", cls(3, 4, (8,), context_features=2)
