"""A map applied to part of an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, Shape, as_shape, show, unify
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("indexed")
class Indexed(Bijector):
    """f on the chosen coordinates, the identity on the others; log_det is f's.

    Args:
        bijector: a map that keeps its shape.
        index: boolean mask of the event (f then sees a vector), or a slice or list of ints along event axis 0.
        shape: event shape of the whole; a mask brings its own, an index needs it.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Affine
        >>> f = Affine(shape=(1,), loc=2.0).on([0], shape=3)
        >>> f(torch.zeros(3))[0].tolist()
        [2.0, 0.0, 0.0]
    """

    chosen: Tensor

    def __init__(self, bijector: Bijector, index: Any, shape: int | tuple[int | None, ...] | None = None) -> None:
        super().__init__()
        if not isinstance(bijector, Bijector) or bijector.in_shape != bijector.out_shape:
            raise ConfigError("Indexed: expected a bijector that keeps its shape.")
        self.bijector, self.index, self.shape = bijector, _plain(index), shape
        mask = _as_mask(self.index)
        if mask is not None:
            self.in_shape, self.rank = tuple(mask.shape), 1
            if shape is not None and as_shape(shape, "Indexed") != self.in_shape:
                raise ShapeError(f"Indexed: mask has shape {tuple(mask.shape)} but shape={shape}. Drop shape=.")
            chosen = mask.flatten().nonzero()[:, 0]
            inner: Shape = (len(chosen),)
        else:
            if shape is None:
                raise ConfigError("Indexed: an index along event axis 0 needs shape=, the shape of the whole event.")
            self.in_shape = as_shape(shape, "Indexed")
            self.rank = len(self.in_shape)
            size = self.in_shape[0]
            if size is None:
                raise ShapeError(f"Indexed: expected a known size of event axis 0; got {show(self.in_shape)}.")
            chosen = _positions(self.index, size)
            inner = (len(chosen), *self.in_shape[1:])
        if unify(inner, bijector.in_shape) is None:
            raise ShapeError(f"Indexed: index picks an event of shape {show(inner)}; {bijector.who} expects {show(bijector.in_shape)}.")
        self.flat = mask is not None
        self.out_shape = self.in_shape
        self.context_shape = bijector.context_shape
        jacobian = bijector.traits.jacobian
        self.traits: Traits = bijector.traits.but(jacobian=jacobian if jacobian in ("diagonal", "constant") else "dense")
        self.register_buffer("chosen", chosen, persistent=False)

    def _pick(self, value: Tensor) -> tuple[Tensor, Tensor]:
        whole = value.flatten(-len(self.in_shape)) if self.flat else value
        return whole, whole.index_select(-self.rank, self.chosen)

    def _put(self, whole: Tensor, piece: Tensor, like: Tensor) -> Tensor:
        return whole.index_copy(whole.dim() - self.rank, self.chosen, piece).reshape(like.shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        whole, piece = self._pick(z)
        piece, log_det = self.bijector(piece, context, generator=generator)
        return self._put(whole, piece, z), log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        whole, piece = self._pick(x)
        piece, log_det = self.bijector.inverse(piece, context, generator=generator)
        return self._put(whole, piece, x), log_det

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        whole, piece = self._pick(value)
        piece, log_det, inside = self.bijector.masked(piece, context, inverse=inverse, generator=generator)
        return self._put(whole, piece, value), log_det, inside

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        (whole, piece), (scores, own) = self._pick(value), self._pick(score)
        piece, log_det, own = (self.bijector.pull_score if inverse else self.bijector.push_score)(piece, own, context, generator=generator)
        return self._put(whole, piece, value), log_det, self._put(scores, own, value)

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        whole, piece = self._pick(value)
        return self._put(whole, self.bijector.initialize(piece, context, inverse=inverse, generator=generator), value)

    def merge(self, following: Transform) -> Transform | None:
        if isinstance(following, Indexed) and following.in_shape == self.in_shape and torch.equal(following.chosen, self.chosen):
            merged = self.bijector.merge(following.bijector)
            return Indexed(merged, self.index, self.shape).to(self.chosen.device) if isinstance(merged, Bijector) else None
        return None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Indexed]]:
        from flowkit.core.build import build

        affine = build({"name": "affine", "shape": (2,)}, Bijector)
        coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "context_features": 2}
        yield "list", cls(build(coupling, Bijector), [3, 1], 4)
        yield "mask", cls(affine, [[True, False], [False, True]])


def _plain(index: Any) -> Any:
    """An index that can be written down: tensors become lists, slices a triple."""
    if isinstance(index, Tensor):
        return index.tolist()
    if isinstance(index, slice):
        return {"slice": [index.start, index.stop, index.step]}
    return index


def _as_mask(index: Any) -> Tensor | None:
    if isinstance(index, dict):
        return None
    tensor = torch.as_tensor(index)
    return tensor if tensor.dtype == torch.bool else None


def _positions(index: Any, size: int) -> Tensor:
    if isinstance(index, dict):
        return torch.tensor(range(size)[slice(*index["slice"])], dtype=torch.int64)
    wanted = torch.as_tensor(index).reshape(-1)
    if wanted.is_floating_point() or not wanted.numel():
        raise ConfigError(f"Indexed: expected a boolean mask, a slice or a list of ints that picks something; got {index!r}.")
    if wanted.numel() and (int(wanted.min()) < -size or int(wanted.max()) >= size):
        raise ShapeError(f"Indexed: index {index} is out of range for event axis 0 of size {size}.")
    wanted = wanted % size
    if wanted.unique().numel() != wanted.numel():
        raise ConfigError(f"Indexed: index {index} names a position twice.")
    return wanted
