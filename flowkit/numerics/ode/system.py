"""A differential equation on rows: members of a state side by side in a matrix, and the field evaluated on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ShapeError

Field = Callable[..., Any]
Members = tuple[Tensor, ...]


class Layout:
    """Where the members of a state sit in the columns of a matrix (R, N): R = batch per sample, else one row for all.

    Args:
        members: the initial state; with ``per_sample`` each has the batch as its first axis.
        per_sample: a row for each sample.
    """

    def __init__(self, members: Members, per_sample: bool) -> None:
        self.per_sample = per_sample
        self.rows = members[0].shape[0] if per_sample else 1
        self.shapes = [member.shape[1:] if per_sample else member.shape for member in members]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.width = sum(self.sizes)
        self.starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]

    def pack(self, members: Members) -> Tensor:
        """Members to a matrix (r, N)."""
        rows = members[0].shape[0] if self.per_sample else 1
        if len(members) == 1:
            return members[0].reshape(rows, self.width)
        return torch.cat([member.reshape(rows, size) for member, size in zip(members, self.sizes, strict=True)], dim=1)

    def unpack(self, matrix: Tensor) -> Members:
        """A matrix (r, N) to members."""
        lead = (matrix.shape[0],) if self.per_sample else ()
        if len(self.sizes) == 1:
            return (matrix.reshape((*lead, *self.shapes[0])),)
        return tuple(matrix[:, start : start + size].reshape((*lead, *shape)) for start, size, shape in zip(self.starts, self.sizes, self.shapes, strict=True))


class System:
    """dy/dt = field(t, *members, *args) on the rows of a matrix; with a boundary, seen from the unfolded line.

    Args:
        field: (t, *members, *args) -> slopes, a tensor or a tuple like the state.
        layout: of the state.
        boundary: object with ``reflect(x, dx)``, applied to the first member, or None.
        who: named in errors.
    """

    def __init__(self, field: Field, layout: Layout, boundary: Any = None, who: str = "ode.solve") -> None:
        self.field, self.layout, self.boundary, self.who = field, layout, boundary, who

    def slope(self, t: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
        """Slopes (r, N) at times t (r,) and states y (r, N)."""
        layout = self.layout
        members = layout.unpack(y)
        out = self.field(t if layout.per_sample else t.reshape(()), *members, *args)
        slopes = out if isinstance(out, tuple) else tuple(out) if isinstance(out, list) else (out,)
        if not all(isinstance(s, Tensor) for s in slopes):
            raise ShapeError(f"{self.who}: expected the field to return a tensor, or a tuple of them; got {type(out).__name__}.")
        if len(slopes) != len(members) or any(s.shape != m.shape for s, m in zip(slopes, members, strict=True)):
            got = [tuple(s.shape) for s in slopes]
            raise ShapeError(f"{self.who}: expected the field to return shapes {[tuple(m.shape) for m in members]}, those of the state; got {got}.")
        return layout.pack(tuple(_own(s, m.dtype) for s, m in zip(slopes, members, strict=True)))

    def stage(self, t: Tensor, base: Tensor, y: Tensor, args: Sequence[Any]) -> Tensor:
        """Slope at a stage y of a step that starts at ``base``: behind a wall the field is read at the mirror image and carried back."""
        if self.boundary is None:
            return self.slope(t, y, args)
        layout = self.layout
        start, (place, *others) = layout.unpack(base)[0], layout.unpack(y)
        folded = self.boundary.reflect(start, place - start)
        slope, *rest = layout.unpack(self.slope(t, layout.pack((folded.x, *others)), args))
        return layout.pack((folded.carry(slope), *rest))

    def land(self, base: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """The end of a step folded back inside, and how often each row was reflected (r,) (None without a boundary)."""
        if self.boundary is None:
            return y, None
        layout = self.layout
        start, (place, *others) = layout.unpack(base)[0], layout.unpack(y)
        folded = self.boundary.reflect(start, place - start)
        hits = folded.hits.sum().reshape(1) if not layout.per_sample else folded.hits.flatten(1).sum(1) if folded.hits.dim() > 1 else folded.hits
        return layout.pack((folded.x, *others)), hits


def _own(slope: Tensor, dtype: torch.dtype) -> Tensor:
    """A slope in the state's dtype, copied if it was written in place: a field may use the same memory again at the next stage."""
    if slope.dtype != dtype:
        return slope.to(dtype)
    return slope.clone() if not slope.is_inference() and slope._version else slope
