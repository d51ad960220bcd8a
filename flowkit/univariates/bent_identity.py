"""Bent identity."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.registry import UNIVARIATES
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.univariates._slopes import bend, unbend


@UNIVARIATES.register("bent_identity")
class BentIdentity(Univariate):
    """x = z + a (sqrt(z^2 + 1) - 1), the bend a = bound tanh(raw) learned; both directions closed.

    Smooth on the whole line, slope 1 at zero, 1 - a far to the left and 1 + a far to the right. The activation of that name
    has a = 1/2. Zero parameters are the identity.

    Args:
        bound: largest |a|, below 1.
    """

    parameter_count = 1
    traits = Traits(jacobian="diagonal")

    def __init__(self, bound: float = 0.95) -> None:
        super().__init__()
        if not 0 < bound < 1:
            raise ConfigError(f"BentIdentity: expected 0 < bound < 1; got {bound}.")
        self.bound = bound

    def _bend(self, params: Tensor) -> Tensor:
        (raw,) = params.unbind(-1)
        return self.bound * torch.tanh(raw)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return bend(z, self._bend(params))

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        a = self._bend(params)
        z = unbend(x, a)
        return z, -bend(z, a)[1]

    @classmethod
    def examples(cls) -> Iterator[tuple[str, BentIdentity]]:
        yield "default", cls()
        yield "gentle", cls(0.5)
