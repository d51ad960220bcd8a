"""All of R^n."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import as_shape, sum_event


@DOMAINS.register("real")
class Real(Domain):
    """All finite events of a shape.

    Args:
        shape: event shape; entries may be None.
    """

    def __init__(self, shape: Sequence[int | None] = (None,)) -> None:
        super().__init__()
        self.shape = shape
        self.event_shape = as_shape(tuple(shape), "Real")

    @property
    def trivial(self) -> bool:
        return True

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        # 0 where all is finite, else NaN; a sum, because ``all`` over short rows is slow on CPUs
        return sum_event(0 * x.detach(), len(self.event_shape)) == 0

    def safe_point(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Real]]:
        yield "plane", cls((2,))
