"""Scalar affine map with a softly clipped log-scale."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.univariates._soft_clip import soft_clip


@UNIVARIATES.register("soft_clipped_affine")
class SoftClippedAffine(Univariate):
    """x = s z + t; parameters (t, a), log s = a / (1 + |a| / L) with L = -log(slope), so that slope < s < 1 / slope.

    The parametrisation of zuko's affine map. ``Affine`` clips by tanh, which saturates exponentially and this one as 1 / a^2.

    Args:
        slope: smallest scale, in (0, 1).
    """

    parameter_count = 2
    traits = Traits(jacobian="diagonal", smooth=False)  # the clip's second derivative jumps at a = 0

    def __init__(self, slope: float = 1e-3) -> None:
        super().__init__()
        if not 0 < slope < 1:
            raise ConfigError(f"SoftClippedAffine: expected 0 < slope < 1; got {slope}.")
        self.slope = slope
        self._limit = -math.log(slope)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        return shift, soft_clip(raw, self._limit)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._split(params)
        return z * torch.exp(log_scale) + shift, log_scale

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._split(params)
        return (x - shift) * torch.exp(-log_scale), -log_scale

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SoftClippedAffine]]:
        yield "default", cls()
        yield "steep", cls(1e-1)
