"""A map seen through another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra.contexts import part, shared_context
from flowkit.core.build import build
from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, show, unify, zeros_log_det
from flowkit.core.traits import combine
from flowkit.core.transform import Bijector


@BIJECTORS.register("sandwich")
class Sandwich(Bijector):
    """Conjugation, x = g^-1(f(g(z))): the map f in the coordinates that g makes. The same function as ``g >> f >> ~g``.

    Built as one map so that its weights are listed once. log_dets of the three calls add; either direction calls g
    twice, once each way, and f once.

    Args:
        outer: g.
        inner: f, which keeps the event shape that g ends in.
    """

    def __init__(self, outer: Bijector, inner: Bijector) -> None:
        super().__init__()
        for side in (outer, inner):
            if not isinstance(side, Bijector):
                raise ConfigError(f"Sandwich: expected two bijectors; got a {type(side).__name__}.")
        self.outer, self.inner = outer, inner
        if unify(outer.out_shape, inner.in_shape) is None or unify(outer.out_shape, inner.out_shape) is None:
            raise ShapeError(
                f"Sandwich: {outer.who} ends in {show(outer.out_shape)} but {inner.who} maps {show(inner.in_shape)} to {show(inner.out_shape)}. "
                "The inner map has to keep the shape the outer one ends in."
            )
        self.in_shape = self.out_shape = outer.in_shape
        self.context_shape = shared_context("Sandwich", [outer, inner])
        diagonal = outer.traits.jacobian == inner.traits.jacobian == "diagonal"
        constant = outer.traits.jacobian == inner.traits.jacobian == "constant"
        self.traits = combine([outer.traits, inner.traits, outer.traits], jacobian="diagonal" if diagonal else "constant" if constant else "dense")

    @property
    def domain(self) -> Domain:
        return self.outer.domain

    @property
    def codomain(self) -> Domain:
        return self.outer.domain

    def _steps(self, inverse: bool) -> list[tuple[Bijector, bool]]:
        """The three maps in the order of a call, and the direction each runs in."""
        return [(self.outer, False), (self.inner, inverse), (self.outer, True)]

    def _run(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor]:
        total = zeros_log_det(value, self.in_shape)
        for step, backwards in self._steps(inverse):
            call = step.inverse if backwards else step
            value, log_det = call(value, part(context, step), generator=generator)
            if not step.traits.volume_preserving:
                total = total + log_det
        return value, total

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(z, context, generator, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, generator, inverse=True)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        total, inside = zeros_log_det(value, self.in_shape), None
        for step, backwards in self._steps(inverse):
            value, log_det, within = step.masked(value, part(context, step), inverse=backwards, generator=generator)
            total = total + log_det
            if within is not None:
                inside = within if inside is None else inside & within
        return value, total, inside

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        value, context = self._prepare(value, context, inverse)
        for step, backwards in self._steps(inverse):
            value = step.initialize(value, part(context, step), inverse=backwards, generator=generator)
        return value

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        total = zeros_log_det(value, self.in_shape)
        for step, backwards in self._steps(inverse):
            carry = step.pull_score if backwards else step.push_score
            value, log_det, score = carry(value, score, part(context, step), generator=generator)
            total = total + log_det
        return value, total, score

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Sandwich]]:
        lu = build({"name": "lu_linear", "features": 3}, Bijector)
        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,), "activation": "tanh", "context_features": 2}
        yield "rotated", cls(lu, build(coupling, Bijector))
        box = build({"name": "to_box", "low": 0.0, "high": 1.0, "shape": (2,)}, Bijector)
        yield "inside_a_box", cls(~box, build({"name": "affine", "shape": (2,)}, Bijector))
