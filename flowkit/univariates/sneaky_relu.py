"""Smooth leaky rectifier with learned slopes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive_number
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.activations import log_sech, soft_bounded
from flowkit.univariates._slopes import bend, unbend


@UNIVARIATES.register("sneaky_relu")
class SneakyReLU(Univariate):
    """x = (s_+ + s_-)/2 z + (s_+ - s_-)/2 (sqrt(z^2 + 1) - 1): a leaky rectifier without its kink, both directions closed.

    The slopes far to the left and right, s_- and s_+, are learned: log-slopes bound tanh(raw / bound), parameters (raw_-, raw_+).
    Zero parameters are the identity.

    Args:
        bound: largest |log-slope|.

    Reference: Finzi et al. (2019), Invertible convolutional networks, ICML workshop on invertible neural nets (with s_+ = 1).
    """

    parameter_count = 2
    traits = Traits(jacobian="diagonal")

    def __init__(self, bound: float = 3.0) -> None:
        super().__init__()
        self.bound = positive_number(bound, "SneakyReLU", "bound")

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the mean slope, and the bend (s_+ - s_-) / (s_+ + s_-)."""
        left, right = (soft_bounded(raw, self.bound) for raw in params.unbind(-1))
        half = 0.5 * (right - left)
        return 0.5 * (left + right) - log_sech(half), torch.tanh(half)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, a = self._split(params)
        x, log_slope = bend(z, a)
        return x * log_scale.exp(), log_slope + log_scale

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, a = self._split(params)
        z = unbend(x * torch.exp(-log_scale), a)
        return z, -bend(z, a)[1] - log_scale

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SneakyReLU]]:
        yield "default", cls()
