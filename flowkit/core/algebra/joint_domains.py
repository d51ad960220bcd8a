"""Domains of events that are put together from parts along an event axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import DomainError
from flowkit.core.shapes import Shape


class PartsDomain(Domain):
    """Each part of the event along an axis has a domain of its own.

    Args:
        domains: one a part.
        event_shape: of the whole.
        axis: event axis, counted from 0.
        sizes: of the parts along the axis; None where each part is one slice and lacks the axis.
    """

    def __init__(self, domains: Sequence[Domain], event_shape: Shape, axis: int, sizes: Sequence[int] | None) -> None:
        super().__init__()
        self.domains = nn.ModuleList(domains)
        self.event_shape, self.axis, self.sizes = event_shape, axis, sizes

    def _parts(self, x: Tensor) -> list[tuple[Any, Tensor]]:
        dim = x.dim() - len(self.event_shape) + self.axis
        pieces = x.unbind(dim) if self.sizes is None else x.split(list(self.sizes), dim)
        return list(zip(self.domains, pieces, strict=True))

    def _join(self, pieces: list[Tensor]) -> Tensor:
        if self.sizes is None:
            rank = len(self.event_shape) - 1
            return torch.stack(pieces, pieces[0].dim() - rank + self.axis)
        return torch.cat(pieces, pieces[0].dim() - len(self.event_shape) + self.axis)

    @property
    def trivial(self) -> bool:
        return all(part.trivial for part in self.domains)  # type: ignore[union-attr]

    @property
    def scale(self) -> float:
        return max(float(part.scale) for part in self.domains)  # type: ignore[arg-type]

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return torch.stack([part.contains(piece, tol) for part, piece in self._parts(x)]).all(0)

    def safe_point(self, x: Tensor) -> Tensor:
        return self._join([part.safe_point(piece) for part, piece in self._parts(x)])

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self._join([part.uniform(n, generator) for part in self.domains])  # type: ignore[operator]

    def support_map(self) -> dict[str, Any] | None:
        maps = [part.support_map() or {"name": "identity", "shape": part.event_shape} for part in self.domains]  # type: ignore[operator]
        return {"name": "stack" if self.sizes is None else "split", "transforms": maps, "axis": self.axis}


class EachDomain(Domain):
    """Every slice of the event along an axis lies in the same domain.

    Args:
        domain: of one slice.
        size: number of slices, None for any.
        axis: event axis of the whole, counted from 0.
    """

    def __init__(self, domain: Domain, size: int | None, axis: int) -> None:
        super().__init__()
        self.domain, self.size, self.axis = domain, size, axis
        inner = domain.event_shape
        self.event_shape = (*inner[:axis], size, *inner[axis:])

    def _slices(self, x: Tensor) -> Tensor:
        """(*B, *event) -> (*B, n, *inner)."""
        rank = len(self.event_shape)
        return x.movedim(x.dim() - rank + self.axis, x.dim() - rank)

    def _back(self, slices: Tensor) -> Tensor:
        rank = len(self.event_shape)
        return slices.movedim(slices.dim() - rank, slices.dim() - rank + self.axis)

    @property
    def trivial(self) -> bool:
        return self.domain.trivial

    @property
    def scale(self) -> float:
        return self.domain.scale

    def contains(self, x: Tensor, tol: float = 0.0) -> Tensor:
        return self.domain.contains(self._slices(x), tol).all(-1)

    def safe_point(self, x: Tensor) -> Tensor:
        return self._back(self.domain.safe_point(self._slices(x)))

    def uniform(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        if self.size is None:
            raise DomainError("EachDomain.uniform: the number of slices is open. Fix it with size=.")
        return self._back(self.domain.uniform(n * self.size, generator).unflatten(0, (n, self.size)))

    def support_map(self) -> dict[str, Any] | None:
        inner = self.domain.support_map()
        return None if inner is None else {"name": "over", "bijector": inner, "size": self.size, "axis": self.axis}
