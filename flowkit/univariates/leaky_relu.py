"""Leaky rectifier with learned slopes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive_number
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.activations import soft_bounded


@UNIVARIATES.register("leaky_relu")
class LeakyReLU(Univariate):
    """x = s_- z for z < 0 and s_+ z for z >= 0; the log-slopes are bound tanh(raw / bound), parameters (raw_-, raw_+).

    Zero parameters are the identity. The slope, and with it any density, jumps at zero: ``SneakyReLU`` is the smooth form.

    Args:
        bound: largest |log-slope|; the usual slope 0.01 has the log -4.6.

    Reference: Maas, Hannun, Ng (2013), Rectifier nonlinearities improve neural network acoustic models, ICML.
    """

    parameter_count = 2
    traits = Traits(jacobian="diagonal", smooth=False)

    def __init__(self, bound: float = 5.0) -> None:
        super().__init__()
        self.bound = positive_number(bound, "LeakyReLU", "bound")

    def _log_slope(self, side: Tensor, params: Tensor) -> Tensor:
        left, right = params.unbind(-1)
        return torch.where(side < 0, soft_bounded(left, self.bound), soft_bounded(right, self.bound))

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_slope = self._log_slope(z, params)
        return z * log_slope.exp(), log_slope

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_slope = -self._log_slope(x, params)
        return x * log_slope.exp(), log_slope

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LeakyReLU]]:
        yield "default", cls()
