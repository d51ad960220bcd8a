"""A learned constant in the place of a network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flowkit.core.registry import NETS
from flowkit.core.shapes import positive


@NETS.register("constant")
class Constant(nn.Module):
    """The same learned vector for every input: what a conditioner with nothing to condition on amounts to.

    Args:
        out_features: size of the vector.

    Shapes: x (*B, anything) -> (*B, out_features).
    """

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = positive(out_features, "Constant", "out_features")
        self.value = nn.Parameter(torch.zeros(self.out_features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.value.expand(*x.shape[:-1], self.out_features)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Constant]]:
        yield "vector", cls(4)
