"""Scalar affine map."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate


@UNIVARIATES.register("affine")
class Affine(Univariate):
    """x = z exp(a) + t with the log-scale a = bound * tanh(raw / bound); parameters (t, raw).

    Zero parameters are the identity, and scales stay within exp(+-bound), so neither direction overflows.

    Args:
        bound: largest |log-scale|.

    Reference: Dinh et al. (2017), Real NVP, arXiv:1605.08803, equation 7.
    """

    parameter_count = 2
    traits = Traits(jacobian="diagonal")

    def __init__(self, bound: float = 5.0) -> None:
        super().__init__()
        if not bound > 0:
            raise ConfigError(f"Affine: expected bound > 0; got {bound}.")
        self.bound = bound

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        return shift, self.bound * torch.tanh(raw / self.bound)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._split(params)
        return z * torch.exp(log_scale) + shift, log_scale

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._split(params)
        return (x - shift) * torch.exp(-log_scale), -log_scale

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Affine]]:
        yield "default", cls()
