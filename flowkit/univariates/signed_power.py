"""Powers of both signs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive_number
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.activations import soft_bounded


@UNIVARIATES.register("signed_power")
class SignedPower(Univariate):
    """x = sign(z) ((1 + |z|)^p - 1) / p with p = exp(bound tanh(raw / bound)) learned: heavier (p > 1) or lighter tails.

    Defined on the whole line with slope (1 + |z|)^(p - 1), which is 1 at zero: unlike sign(z) |z|^p, whose slope there is
    zero or infinite. The second derivative jumps at zero unless p = 1, the identity, where training starts.

    Args:
        bound: largest |log p|.
    """

    parameter_count = 1
    traits = Traits(jacobian="diagonal", smooth=False)

    def __init__(self, bound: float = 1.0) -> None:
        super().__init__()
        self.bound = positive_number(bound, "SignedPower", "bound")

    def _power(self, params: Tensor) -> Tensor:
        (raw,) = params.unbind(-1)
        return soft_bounded(raw, self.bound).exp()

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        p = self._power(params)
        log = torch.log1p(torch.where(z < 0, -z, z))
        size = torch.expm1(p * log) / p
        return torch.where(z < 0, -size, size), (p - 1) * log

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        p = self._power(params)
        log = torch.log1p(p * torch.where(x < 0, -x, x)) / p
        size = torch.expm1(log)
        return torch.where(x < 0, -size, size), (1 - p) * log

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SignedPower]]:
        yield "default", cls()
