"""Costs along the paths of a continuous flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context, sum_event


@dataclass(frozen=True)
class PathCosts:
    """Weights of kinetic energy |v|^2 / (2 d), squared Jacobian |e'J|^2 / d and Hamilton-Jacobi residual |dPhi/dt - |v|^2 / 2|.

    Args:
        kinetic, jacobian, hjb: weights, >= 0; each is integrated over time.
    """

    kinetic: float
    jacobian: float
    hjb: float

    @property
    def names(self) -> list[str]:
        """The costs that count."""
        return [name for name in ("kinetic", "jacobian", "hjb") if getattr(self, name)]

    @property
    def weights(self) -> list[float]:
        """Their weights."""
        return [float(getattr(self, name)) for name in self.names]

    def check(self, field: Any, who: str) -> None:
        """Whether the field can be asked for them."""
        if self.hjb and getattr(field, "potential_rate", None) is None:
            raise ConfigError(f"{who}: hjb= needs a field that is minus the gradient of a potential; got {type(field).__name__}. Use OTPotentialField.")

    def at(self, field: Any, t: Tensor, x: Tensor, context: Context, v: Tensor, products: Tensor | None) -> Tensor:
        """The costs at a place: (r, number of costs)."""
        rank = len(field.event_shape)
        energy = sum_event(v.square(), rank)
        size = x.shape[x.dim() - rank :].numel()
        found = []
        if self.kinetic:
            found.append(energy / (2 * size))
        if self.jacobian:
            assert products is not None
            found.append(sum_event(products.square(), rank).mean(0) / size)
        if self.hjb:
            found.append((field.potential_rate(t, x, context) - energy / 2).abs())
        return torch.stack(found, dim=-1).to(x.dtype)
