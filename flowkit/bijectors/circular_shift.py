"""Rotation of circle-valued coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, positive_sizes, whole_number, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets._learned import Learned


@BIJECTORS.register("circular_shift")
class CircularShift(Bijector):
    """x = low + (z + s - low) mod (high - low) on circles [low, high), the shift s learned or given by the context; log_det = 0.

    Continuous on the circle; in coordinates it jumps where the circle is cut. ``high`` is the same point as ``low`` and comes
    out as ``low``. Between circular splines a shift moves the cut, so that no point stays special.

    Args:
        shape: event shape, all sizes known.
        low, high: ends of the circle's coordinate.
        shift: where training starts; a number or a tensor that broadcasts to the shape. For a fixed shift freeze the parameter.
        context_features: size of the context's last axis; 0 learns constants.
        hidden: widths of the net's hidden layers when there is a context.

    Reference: Rezende et al. (2020), Normalizing flows on tori and spheres, arXiv:2002.02428, section 2.1.
    """

    traits = Traits(jacobian="diagonal", score="closed", volume_preserving=True, smooth=False)
    _domain: Box

    def __init__(
        self,
        shape: int | Sequence[int],
        low: float = -math.pi,
        high: float = math.pi,
        *,
        shift: float | Tensor = 0.0,
        context_features: int = 0,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.low, self.high, self.shift = shape, low, high, shift
        self.context_features, self.hidden = context_features, positive_sizes(hidden, self.who, "hidden")
        self.in_shape = self.out_shape = as_shape(shape, "CircularShift")
        if None in self.in_shape:
            raise ConfigError(f"CircularShift: expected a shape of known sizes; got {shape!r}. Pass e.g. (4,).")
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"CircularShift: expected finite low < high; got low={low}, high={high}.")
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        self.context_shape = (context_features,) if context_features else None
        self._domain, self._codomain = Box(low, high, sizes), Box(low, high, sizes)
        start = torch.as_tensor(shift, dtype=torch.get_default_dtype()).expand(sizes)
        self.learned = Learned({"shift": start}, context_features, self.hidden)

    def _turn(self, value: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._domain.low_buffer, self._domain.high_buffer
        # rounding may reach the period itself
        moved = torch.remainder(value - low + shift, high - low).clamp(max=self.high - self.low)
        return torch.minimum(low + moved, high), zeros_log_det(value, self.in_shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._turn(z, self.learned(context)["shift"].to(z.dtype))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._turn(x, -self.learned(context)["shift"].to(x.dtype))

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return *self._formula(value, context, generator, inverse), score

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CircularShift]]:
        yield "angles", cls(3, shift=1.0)
        yield "conditional", cls(3, 0.0, 1.0, context_features=2, hidden=(8,))
