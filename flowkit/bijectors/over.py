"""One map, its parameters shared, on every slice of an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra.joint_domains import EachDomain
from flowkit.core.algebra.parallel import event_axis
from flowkit.core.build import build
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, positive
from flowkit.core.transform import Bijector


@BIJECTORS.register("over")
class Over(Bijector):
    """x[i] = f(z[i]) with the same f for every slice i along a new event axis; log_det is the sum over the slices.

    The slices are one larger batch of f, so the cost is that of one call. A flow of sets or of steps in time that treats
    all members alike; ``Vmap`` gives each slice parameters of its own.

    Args:
        bijector: the map of one slice; a context is the same for all slices.
        size: number of slices, None for any.
        axis: where the new axis stands in the event, negative from its end.
    """

    def __init__(self, bijector: Bijector, size: int | None = None, axis: int = 0) -> None:
        super().__init__()
        size = None if size is None else positive(size, "Over", "size")
        if not isinstance(bijector, Bijector):
            raise ConfigError(f"Over: expected a bijector; got {type(bijector).__name__}.")
        self.bijector, self.size = bijector, size
        first, last = bijector.in_shape, bijector.out_shape
        self._in_axis, self._out_axis = event_axis(axis, len(first) + 1, "Over"), event_axis(axis, len(last) + 1, "Over")
        self.axis = int(axis)
        self.in_shape = (*first[: self._in_axis], size, *first[self._in_axis :])
        self.out_shape = (*last[: self._out_axis], size, *last[self._out_axis :])
        self.context_shape = bijector.context_shape
        self.traits = bijector.traits

    @property
    def domain(self) -> Domain:
        inner = self.bijector.domain
        return super().domain if inner.trivial else EachDomain(inner, self.size, self._in_axis)

    @property
    def codomain(self) -> Domain:
        inner = self.bijector.codomain
        return super().codomain if inner.trivial else EachDomain(inner, self.size, self._out_axis)

    def _slices(self, value: Tensor, inverse: bool) -> Tensor:
        """(*B, *event) -> (*B, n, *slice)."""
        shape, axis = (self.out_shape, self._out_axis) if inverse else (self.in_shape, self._in_axis)
        start = value.dim() - len(shape)
        return value.movedim(start + axis, start)

    def _back(self, slices: Tensor, inverse: bool) -> Tensor:
        """Slices after a call in this direction as one event."""
        shape, axis = (self.in_shape, self._in_axis) if inverse else (self.out_shape, self._out_axis)
        start = slices.dim() - len(shape)
        return slices.movedim(start, start + axis)

    def _given(self, context: Context) -> Any:
        """The context with a batch axis for the slices: (*B, *shape) -> (*B, 1, *shape)."""
        if context is None or self.context_shape is None:
            return None
        if isinstance(context, Tensor):
            return context.unsqueeze(context.dim() - len(self.context_shape))
        return {key: _given_part(part, self.context_shape[key]) for key, part in context.items()}  # type: ignore[call-overload]

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        call = self.bijector.inverse if inverse else self.bijector
        slices, log_det = call(self._slices(value, inverse), self._given(context), generator=generator)
        return self._back(slices, inverse), log_det.sum(-1)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        slices, log_det, inside = self.bijector.masked(self._slices(value, inverse), self._given(context), inverse=inverse, generator=generator)
        return self._back(slices, inverse), log_det.sum(-1), None if inside is None else inside.all(-1)

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        return self._back(self.bijector.initialize(self._slices(value, inverse), self._given(context), inverse=inverse, generator=generator), inverse)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        carry = self.bijector.pull_score if inverse else self.bijector.push_score
        slices, scores = self._slices(value, inverse), self._slices(score, inverse)
        out, log_det, carried = carry(slices, scores, self._given(context), generator=generator)
        return self._back(out, inverse), log_det.sum(-1), self._back(carried, inverse)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Over]]:
        coupling = {"name": "coupling", "features": 2, "univariate": {"name": "affine"}, "hidden": (8,), "activation": "tanh", "context_features": 2}
        yield "rows", cls(build(coupling, Bijector), 3)
        bounded = {"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}
        yield "open_bounded", cls(build({"name": "elementwise", "shape": (2,), "univariate": bounded}, Bijector), axis=-1)


def _given_part(part: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    return part.unsqueeze(part.dim() - len(shape))
