"""From R^n onto a box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.domain.box import Box
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import sum_event
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector


@BIJECTORS.register("to_box")
class ToBox(Bijector):
    """R^n onto the interior of a box, coordinate by coordinate.

    Between two finite ends x = low + (high - low) sigmoid(z); above one end x = low + softplus(z); below one end
    x = high - softplus(-z); the identity where both ends are infinite. Inputs of the inverse that lie on an end are moved
    inside by a rounding unit, so densities there stay finite.

    Args:
        low, high, shape: as ``low``, ``high``, ``dim`` of ``Box``.
    """

    traits = Traits(jacobian="diagonal")
    low_end: Tensor
    high_end: Tensor
    width: Tensor
    kind: Tensor

    def __init__(
        self, low: float | Sequence[float] | Tensor = 0.0, high: float | Sequence[float] | Tensor = 1.0, shape: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.low, self.high, self.shape = low, high, shape
        box = Box(low, high, shape)
        self._codomain = box
        self.in_shape = self.out_shape = box.event_shape
        lower, upper = box.low_buffer, box.high_buffer
        below, above = torch.isfinite(lower), torch.isfinite(upper)
        self.register_buffer("low_end", torch.where(below, lower, 0.0), persistent=False)
        self.register_buffer("high_end", torch.where(above, upper, 0.0), persistent=False)
        self.register_buffer("width", torch.where(below & above, upper - lower, 1.0), persistent=False)
        self.register_buffer("kind", below.int() + 2 * above.int(), persistent=False)  # 0 none, 1 low end, 2 high end, 3 both

    def _choose(self, none: Tensor, low: Tensor, high: Tensor, both: Tensor) -> Tensor:
        return torch.where(self.kind == 3, both, torch.where(self.kind == 1, low, torch.where(self.kind == 2, high, none)))

    def _slope(self, z: Tensor) -> Tensor:
        above, below = functional.logsigmoid(z), functional.logsigmoid(-z)
        return self._choose(torch.zeros_like(z), above, below, self.width.log() + above + below)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        both = torch.minimum(torch.maximum(self.low_end + self.width * torch.sigmoid(z), self.low_end), self.low_end + self.width)
        x = self._choose(z, self.low_end + functional.softplus(z), self.high_end - functional.softplus(-z), both)
        return x, sum_event(self._slope(z), len(self.in_shape))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        eps, tiny = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).tiny
        share = ((x - self.low_end) / self.width).clamp(tiny, 1 - eps / 2)
        rest = ((self.low_end + self.width - x) / self.width).clamp(tiny, 1 - eps / 2)
        z = self._choose(x, _softplus_inverse(x - self.low_end), -_softplus_inverse(self.high_end - x), share.log() - rest.log())
        return z, -sum_event(self._slope(z), len(self.in_shape))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToBox]]:
        yield "unit", cls(0.0, 1.0, 2)
        yield "mixed", cls([0.0, -torch.inf, -1.0, -torch.inf], [torch.inf, 2.0, 3.0, torch.inf])


def _softplus_inverse(x: Tensor) -> Tensor:
    x = x.clamp(min=torch.finfo(x.dtype).tiny)
    return x + torch.log(-torch.expm1(-x))
