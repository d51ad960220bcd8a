"""Hyperbolic tangent with linear ends."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flowkit.core.registry import UNIVARIATES
from flowkit.core.shapes import positive_number
from flowkit.core.traits import Traits
from flowkit.core.univariate import Univariate
from flowkit.numerics.activations import log_sech

STEEPEST = 5.0  # largest k bound: the ends keep a slope of at least 1.8e-4
GENTLEST = 1e-3  # smallest k bound: k stays a divisor that float32 can resolve
START = -4.6  # sigmoid of it times STEEPEST is 0.05, near the identity


@UNIVARIATES.register("leaky_tanh")
class LeakyTanh(Univariate):
    """x = tanh(k z) / k for |z| <= bound, beyond it the straight line with the slope reached there; k learned.

    k bound = 1e-3 + 5 sigmoid(raw): from nearly the identity, where it starts, to a hard squash; k = 1 is the activation of
    that name. The slope is continuous, its derivative jumps at +-bound. Both directions are closed.

    Args:
        bound: where the lines begin.

    Reference: Ward (2023), FlowJAX (the fixed k = 1 form).
    """

    parameter_count = 1
    traits = Traits(jacobian="diagonal", smooth=False)

    def __init__(self, bound: float = 3.0) -> None:
        super().__init__()
        self.bound = positive_number(bound, "LeakyTanh", "bound")

    def _rate(self, params: Tensor) -> Tensor:
        (raw,) = params.unbind(-1)
        return (GENTLEST + STEEPEST * torch.sigmoid(raw)) / self.bound

    def _log_slope(self, k: Tensor, inner: Tensor) -> Tensor:
        """log sech^2(k z)."""
        return 2 * log_sech(k * inner)

    def transform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        k = self._rate(params)
        inner = z.clamp(-self.bound, self.bound)
        log_slope = self._log_slope(k, inner)
        return torch.tanh(k * inner) / k + (z - inner) * log_slope.exp(), log_slope

    def untransform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        k = self._rate(params)
        end = torch.tanh(k * self.bound) / k
        inner = torch.minimum(torch.maximum(x, -end), end)
        curved = torch.abs(x) < end
        reached = torch.where(curved, torch.atanh(k * torch.where(curved, x, 0.0)) / k, torch.sign(x) * self.bound)
        log_slope = self._log_slope(k, reached)
        return reached + (x - inner) * torch.exp(-log_slope), -log_slope

    def initial_parameters(self) -> Tensor:
        return torch.tensor([START])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, LeakyTanh]]:
        yield "default", cls()
        yield "narrow", cls(1.0)
