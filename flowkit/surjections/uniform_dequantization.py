"""Uniform dequantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.integers import Integers
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import as_shape, zeros_log_det
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits
from flowkit.surjections._quantize import quantize


@SURJECTIONS.register("uniform_dequantization")
class UniformDequantization(Surjection):
    """x = floor(z), clipped to 0 .. levels - 1; the inverse adds uniform noise, z = x + u with u in [0, 1).

    With it last, a flow is a model of integer data: ``log_prob`` is a lower bound of their log-probability (uniform noise has
    density 1, so the contribution is 0), and minus infinity off the grid.

    Args:
        levels: number of values, 256 for 8-bit images.
        shape: event shape, sizes None for any.

    Reference: Theis et al. (2016), A note on the evaluation of generative models, arXiv:1511.01844, section 3.1;
    Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, table 2 (rounding surjection).
    """

    traits = Traits(log_det="bound", stochastic=True, jacobian="diagonal", smooth=False)

    def __init__(self, levels: int, shape: int | Sequence[int | None]) -> None:
        super().__init__()
        self._codomain = Integers(levels, shape)
        self.levels, self.shape = self._codomain.levels, shape
        self.in_shape = self.out_shape = as_shape(shape, "UniformDequantization")

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return quantize(z, self.levels), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return x + torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device), zeros_log_det(x, self.in_shape)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, UniformDequantization]]:
        yield "eight_levels", cls(8, (3,))
        yield "image", cls(256, (1, None, None))
