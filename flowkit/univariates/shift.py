"""Scalar translation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate


@UNIVARIATES.register("shift")
class Shift(Univariate):
    """x = z + t; parameter t.

    Reference: Dinh et al. (2015), NICE, arXiv:1410.8516, section 3.2.
    """

    parameter_count = 1
    traits = Traits(jacobian="diagonal", volume_preserving=True)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return z + params.squeeze(-1), torch.zeros_like(z)

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x - params.squeeze(-1), torch.zeros_like(x)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Shift]]:
        yield "default", cls()
