"""Sorting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.ordered import Ordered
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import positive, zeros_log_det
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits


@SURJECTIONS.register("sort")
class Sort(Surjection):
    """x = z in increasing order; the inverse draws an order, all D! equally likely, so its contribution is log D!.

    ``~Sort`` is the inference form: its latent is the sorted vector, its likelihood is exact and the same for every order of
    the data, as exchangeable data need.

    Args:
        features: D.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, section 3.1 (sorting surjection).
    """

    traits = Traits(log_det="bound", stochastic=True)

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = positive(features, "Sort", "features")
        self.in_shape = self.out_shape = (self.features,)
        self._log_orders = math.lgamma(self.features + 1)
        self._codomain = Ordered(self.features)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z.sort(-1).values, zeros_log_det(z, self.in_shape) - self._log_orders

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        order = torch.rand(x.shape, generator=generator, device=x.device).argsort(-1)
        return x.gather(-1, order), zeros_log_det(x, self.in_shape) + self._log_orders

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Sort]]:
        yield "three", cls(3)
