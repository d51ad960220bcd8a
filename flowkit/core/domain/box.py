"""Axis-aligned boxes, also half-open and unbounded ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain._reflection import Reflection, count_hits
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, DomainError
from flowkit.core.registry import DOMAINS
from flowkit.core.shapes import positive_sizes, sum_event


@DOMAINS.register("box")
class Box(Domain):
    """The box {low <= x <= high}, sides finite or infinite.

    Args:
        low, high: bounds, a number or one per coordinate; ``-inf`` and ``inf`` are allowed.
        dim: number of coordinates, or an event shape; default the shape of the bounds.

    Example:
        >>> from flowkit.core.domain import Box
        >>> Box([0.0, float("-inf")], [1.0, 0.0]).event_shape
        (2,)
    """

    low_buffer: Tensor
    high_buffer: Tensor

    def __init__(
        self, low: float | Sequence[float] | Tensor = 0.0, high: float | Sequence[float] | Tensor = 1.0, dim: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        given = None if dim is None else positive_sizes(dim if isinstance(dim, Sequence) else (dim,), "Box", "dim")
        self.low, self.high, self.dim = low, high, dim if given is None or isinstance(dim, Sequence) else given[0]
        lower, upper = torch.as_tensor(low, dtype=torch.get_default_dtype()), torch.as_tensor(high, dtype=torch.get_default_dtype())
        shape = tuple(torch.broadcast_shapes(lower.shape, upper.shape)) if given is None else given
        try:
            lower, upper = lower.expand(shape).clone(), upper.expand(shape).clone()
        except RuntimeError:
            raise ConfigError(f"Box: expected bounds that broadcast to {shape}; got {tuple(lower.shape)} and {tuple(upper.shape)}.") from None
        if not bool((lower < upper).all()):
            raise ConfigError(f"Box: expected low < high everywhere; got low={low}, high={high}.")
        self.event_shape = shape
        self._bounded = bool(torch.isfinite(lower).all() and torch.isfinite(upper).all())  # once: on a GPU a call would wait for the answer
        self.register_buffer("low_buffer", lower, persistent=False)
        self.register_buffer("high_buffer", upper, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Box:
        """Follow a change of dtype or device from the ends as given, so that 0.1 is 0.1 in float64 too."""
        super()._apply(fn, recurse)
        for name, given in (("low_buffer", self.low), ("high_buffer", self.high)):
            moved = getattr(self, name)
            if moved.device.type != "meta":
                setattr(self, name, torch.as_tensor(given, dtype=moved.dtype, device=moved.device).expand(moved.shape).clone())
        return self

    @property
    def bounded(self) -> bool:
        """Whether every side is finite."""
        return self._bounded

    @property
    def scale(self) -> float:
        ends = torch.stack([self.low_buffer, self.high_buffer])
        return max(1.0, float(ends[torch.isfinite(ends)].abs().max())) if bool(torch.isfinite(ends).any()) else 1.0

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        low, high = self.low_buffer.to(x.dtype), self.high_buffer.to(x.dtype)
        inside = (x >= low - tol) & (x <= high + tol) & torch.isfinite(x)
        rank = len(self.event_shape)
        return inside.flatten(-rank).all(-1) if rank else inside

    def safe_point(self, x: Tensor) -> Tensor:
        low, high = self.low_buffer.to(x), self.high_buffer.to(x)
        centre = torch.where(torch.isfinite(low), low + 1.0, torch.where(torch.isfinite(high), high - 1.0, torch.zeros_like(low)))
        both = torch.isfinite(low) & torch.isfinite(high)
        return torch.where(both, low + 0.5 * torch.where(both, high - low, torch.ones_like(low)), centre).expand_as(x)

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        if not self.bounded:
            raise DomainError("Box.uniform: the box is unbounded. Give finite low and high.")
        unit = torch.rand((n, *self.low_buffer.shape), generator=generator, dtype=self.low_buffer.dtype, device=self.low_buffer.device)
        return torch.lerp(self.low_buffer.expand_as(unit), self.high_buffer.expand_as(unit), unit)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume; infinite for an unbounded box."""
        return float((self.high_buffer.double() - self.low_buffer.double()).log().sum())

    @property
    def centre(self) -> Tensor:
        """Middle of the finite sides; a unit inside a single finite end; zero where there is none: (*event)."""
        low, high = torch.isfinite(self.low_buffer), torch.isfinite(self.high_buffer)
        one = torch.where(low, self.low_buffer + 1, torch.where(high, self.high_buffer - 1, 0.0))
        return torch.where(low & high, torch.lerp(self.low_buffer, self.high_buffer, 0.5), one)

    @property
    def half_width(self) -> Tensor:
        """Half of each finite side; 1 for the others: (*event)."""
        width = self.high_buffer - self.low_buffer
        return torch.where(torch.isfinite(width), 0.5 * width, 1.0)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the box: (*B, *event) to itself."""
        return torch.minimum(torch.maximum(x, self.low_buffer.to(x.dtype)), self.high_buffer.to(x.dtype))

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """Fold the step x -> x + dx at the walls, coordinate by coordinate: k walls met leave the sign (-1)^k.

        With z = x + dx and w = high - low, k = floor((z - low) / w) and m = z - k w, the end is m for even k and
        low + high - m for odd k.
        """
        low, high = self.low_buffer.to(x.dtype), self.high_buffer.to(x.dtype)
        z, width = x + dx, high - low
        both = torch.isfinite(width)
        beyond = (z < low) | (z > high)
        with torch.no_grad():
            turns = torch.floor((z - torch.where(both, low, 0.0)) / torch.where(both, width, 1.0))
            turns = torch.where(beyond, torch.where(both, turns, 1.0), 0.0)
            odd = turns.remainder(2.0) != 0
        shift = torch.where(both, turns * torch.where(both, width, 0.0), 0.0)
        mirror = torch.where(both, low + high, 2 * torch.where(torch.isfinite(low), low, torch.where(torch.isfinite(high), high, 0.0)))
        folded = torch.where(odd, mirror - (z - shift), z - shift)
        end = self.project(folded)
        hits = count_hits(sum_event(turns.abs(), len(self.event_shape)))
        return Reflection(end, lambda v: torch.where(odd, -v, v), hits)

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_box", "low": self.low, "high": self.high, "shape": tuple(self.event_shape)}

    def __repr__(self) -> str:
        return f"Box(low={_brief(self.low)}, high={_brief(self.high)})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Box]]:
        yield "unit", cls(0.0, 1.0, 2)
        yield "mixed", cls([0.0, float("-inf"), -1.0], [float("inf"), 2.0, 1.0])


def _brief(value: Any) -> str:
    return str(value.tolist() if isinstance(value, Tensor) else value)
