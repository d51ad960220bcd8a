"""Embedding of class labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from flowkit.core.checks import may_raise
from flowkit.core.errors import ShapeError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive


@NETS.register("class_embedding")
class ClassEmbedding(nn.Module):
    """One learned vector per class, and one for the label -1 (no class).

    Args:
        classes: K; labels are 0 .. K - 1 and -1.
        out_features: size of the vectors.

    Shapes: labels (*B) int64 -> (*B, out_features).

    Raises:
        ShapeError: a label outside -1 .. K - 1 (eager on the CPU, or under ``flowkit.checks()``).
    """

    def __init__(self, classes: int, out_features: int = 16) -> None:
        super().__init__()
        self.classes, self.out_features = positive(classes, "ClassEmbedding", "classes"), positive(out_features, "ClassEmbedding", "out_features")
        self.table = nn.Embedding(self.classes + 1, self.out_features)

    def forward(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point():
            raise ShapeError(f"ClassEmbedding: expected int64 labels; got {labels.dtype}. Convert with .long().")
        if may_raise(labels):
            outside = (labels < -1) | (labels >= self.classes)
            if bool(outside.any()):
                raise ShapeError(f"ClassEmbedding: expected labels in -1 .. {self.classes - 1}; got {int(labels[outside][0])}.")
        return self.table(torch.where(labels < 0, self.classes, labels))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ClassEmbedding]]:
        yield "three", cls(3, 4)
