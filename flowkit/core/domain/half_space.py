"""Half-spaces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain._reflection import Reflection
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import DOMAINS


@DOMAINS.register("half_space")
class HalfSpace(Domain):
    """The half-space {normal . x <= offset}.

    Args:
        normal: outward normal (D,), not zero; need not have unit length.
        offset: the right-hand side.
    """

    normal_buffer: Tensor

    def __init__(self, normal: Sequence[float] | Tensor, offset: float = 0.0) -> None:
        super().__init__()
        self.normal, self.offset = normal, offset
        vector = torch.as_tensor(normal, dtype=torch.get_default_dtype()).clone()
        if vector.dim() != 1 or float(vector.norm()) == 0.0:
            raise ConfigError(f"HalfSpace: expected a normal vector that is not zero; got {normal}.")
        self.event_shape = (vector.shape[0],)
        self.register_buffer("normal_buffer", vector, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HalfSpace:
        """Follow a change of dtype or device from the normal as given."""
        super()._apply(fn, recurse)
        moved = self.normal_buffer
        if moved.device.type != "meta":
            self.normal_buffer = torch.as_tensor(self.normal, dtype=moved.dtype, device=moved.device).clone()
        return self

    @property
    def scale(self) -> float:
        return max(1.0, abs(self.offset), float(self.normal_buffer.norm()))

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return torch.isfinite(x).all(-1) & ((x * self.normal_buffer.to(x.dtype)).sum(-1) <= self.offset + tol)

    def safe_point(self, x: Tensor) -> Tensor:
        normal = self.normal_buffer.to(x)
        return (normal * ((self.offset - normal.norm()) / normal.square().sum())).expand_as(x)

    @property
    def log_volume(self) -> float:
        """Infinite."""
        return math.inf

    @property
    def centre(self) -> Tensor:
        """The origin: where a normal law on the half-space is centred, (D,)."""
        return torch.zeros_like(self.normal_buffer)

    @property
    def half_width(self) -> Tensor:
        """1, a half-space having no width of its own."""
        return torch.ones((), dtype=self.normal_buffer.dtype, device=self.normal_buffer.device)

    def _excess(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far x is beyond the wall, in units of the normal's square (*B, 1), and the rounding of that number's numerator."""
        normal = self.normal_buffer.to(x.dtype)
        terms = x * normal
        rounding = (x.shape[-1] + 4) * torch.finfo(x.dtype).eps * (terms.abs().sum(-1, keepdim=True) + abs(self.offset))
        return (terms.sum(-1, keepdim=True) - self.offset) / normal.square().sum(), rounding / normal.square().sum()

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the half-space, a rounding inside: (*B, D) to itself."""
        excess, rounding = self._excess(x)
        return torch.where(excess > -rounding, x - (excess + rounding) * self.normal_buffer.to(x.dtype), x)

    def reflect(self, x: Tensor, dx: Tensor) -> Reflection:
        """Mirror the end of the step x -> x + dx in the wall if it is beyond: z - 2 max(0, g.z - c) g / |g|^2."""
        z, normal = x + dx, self.normal_buffer.to(x.dtype)
        excess, rounding = self._excess(z)
        hit = excess > rounding
        end = self.project(torch.where(hit, z - 2 * excess * normal, z))
        square = normal.square().sum()

        def carry(v: Tensor) -> Tensor:
            return torch.where(hit, v - 2 * ((v * normal).sum(-1, keepdim=True) / square) * normal, v)

        return Reflection(end, carry, hit.squeeze(-1).to(torch.int64))

    def support_map(self) -> dict[str, Any]:
        return {"name": "to_half_space", "normal": self.normal, "offset": self.offset}

    def __repr__(self) -> str:
        return f"HalfSpace(normal={self.normal_buffer.tolist()}, offset={self.offset})"

    @classmethod
    def examples(cls) -> Iterator[tuple[str, HalfSpace]]:
        yield "tilted", cls([1.0, 2.0], 0.5)
