"""From R^n onto a box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import carry_scalars
from flowkit.core.domain.box import Box
from flowkit.core.registry import BIJECTORS
from flowkit.core.tally import tally
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.activations import softplus_inverse


@BIJECTORS.register("to_box")
class ToBox(Bijector):
    """R^n onto the interior of a box, coordinate by coordinate.

    Between two finite ends x = low + (high - low) sigmoid(z); above one end x = low + softplus(z); below one end
    x = high - softplus(-z); the identity where both ends are infinite. Inputs of the inverse that lie on an end are moved
    inside by a rounding unit, so densities there stay finite.

    Args:
        low, high, shape: as ``low``, ``high``, ``dim`` of ``Box``.
    """

    traits = Traits(jacobian="diagonal", score="closed")
    kind: Tensor

    def __init__(
        self, low: float | Sequence[float] | Tensor = 0.0, high: float | Sequence[float] | Tensor = 1.0, shape: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.low, self.high, self.shape = low, high, shape
        self._codomain: Box = Box(low, high, shape)
        self.in_shape = self.out_shape = self._codomain.event_shape
        below, above = torch.isfinite(self._codomain.low_buffer), torch.isfinite(self._codomain.high_buffer)
        self.register_buffer("kind", below.int() + 2 * above.int(), persistent=False)  # 0 none, 1 low end, 2 high end, 3 both

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Low ends, high ends and widths, with harmless numbers where an end is infinite."""
        low, high = self._codomain.low_buffer, self._codomain.high_buffer
        low, high = torch.where(self.kind % 2 == 1, low, 0.0), torch.where(self.kind >= 2, high, 0.0)
        return low, high, torch.where(self.kind == 3, high - low, 1.0)

    def _choose(self, none: Tensor, low: Tensor, high: Tensor, both: Tensor) -> Tensor:
        return torch.where(self.kind == 3, both, torch.where(self.kind == 1, low, torch.where(self.kind == 2, high, none)))

    def _slope(self, z: Tensor) -> Tensor:
        above, below = functional.logsigmoid(z), functional.logsigmoid(-z)
        return self._choose(torch.zeros_like(z), above, below, self._ends()[2].log() + above + below)

    def _onto(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x and the log-slopes there."""
        low, high, width = self._ends()
        inner = torch.minimum(torch.maximum(low + width * torch.sigmoid(z), low), high)
        return self._choose(z, low + functional.softplus(z), high - functional.softplus(-z), inner), self._slope(z)

    def _back(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and the log-slopes of the inverse."""
        eps, tiny = torch.finfo(x.dtype).eps, torch.finfo(x.dtype).tiny
        low, high, width = self._ends()
        share = ((x - low) / width).clamp(tiny, 1 - eps / 2)
        rest = ((high - x) / width).clamp(tiny, 1 - eps / 2)
        z = self._choose(x, softplus_inverse(x - low), -softplus_inverse(high - x), share.log() - rest.log())
        return z, -self._slope(z)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return tally(*self._onto(z), len(self.in_shape), "none")

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return tally(*self._back(x), len(self.in_shape), "none")

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return carry_scalars(self._back if inverse else self._onto, value, score, len(self.in_shape))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ToBox]]:
        yield "unit", cls(0.0, 1.0, 2)
        yield "mixed", cls([0.0, -torch.inf, -1.0, -torch.inf], [torch.inf, 2.0, 3.0, torch.inf])
