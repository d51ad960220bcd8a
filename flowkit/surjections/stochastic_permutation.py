"""Random orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import as_shape, zeros_log_det
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits


@SURJECTIONS.register("stochastic_permutation")
class StochasticPermutation(Surjection):
    """Both directions put the entries along event axis 0 in a random order, all equally likely; the contribution is 0.

    A flow with it models exchangeable data: the bound holds for the density averaged over all orders.

    Args:
        shape: event shape, e.g. (points, coordinates).

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, section 3.1 (stochastic permutation).
    """

    draws = frozenset({"forward", "inverse"})
    traits = Traits(log_det="bound", stochastic=True)

    def __init__(self, shape: int | Sequence[int | None]) -> None:
        super().__init__()
        self.shape = shape
        self.in_shape = self.out_shape = as_shape(shape, "StochasticPermutation")

    def _shuffle(self, value: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        rank = len(self.in_shape)
        axis = value.dim() - rank
        order = torch.rand(value.shape[: axis + 1], generator=generator, device=value.device).argsort(-1)
        index = order.reshape(*order.shape, *([1] * (rank - 1))).expand(value.shape)
        return value.gather(axis, index), zeros_log_det(value, self.in_shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._shuffle(z, generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._shuffle(x, generator)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, StochasticPermutation]]:
        yield "points", cls((3, 2))
        yield "vector", cls(4)
