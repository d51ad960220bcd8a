"""The inverse of a bijector as a bijector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context
from flowkit.core.transform import Bijector, Transform


@BIJECTORS.register("inverse")
class Inverse(Bijector):
    """~f: forward is f's inverse, inverse is f's forward. ``~~f`` is f itself.

    Args:
        bijector: the map to turn around.
    """

    def __init__(self, bijector: Bijector) -> None:
        super().__init__()
        if not isinstance(bijector, Bijector):
            raise ConfigError(f"Inverse: expected a bijector; got {type(bijector).__name__}.")
        self.bijector = bijector
        self.in_shape, self.out_shape = bijector.out_shape, bijector.in_shape
        self.context_shape = bijector.context_shape
        self.traits = bijector.traits

    @property
    def domain(self) -> Domain:
        return self.bijector.codomain

    @property
    def codomain(self) -> Domain:
        return self.bijector.domain

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.bijector.inverse(z, context, generator=generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.bijector(x, context, generator=generator)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.bijector.masked(value, context, inverse=not inverse, generator=generator)

    def masked_normal(self, value: Tensor, context: Context = None, *, inverse: bool, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        return self.bijector.masked_normal(value, context, inverse=not inverse, generator=generator)

    def move(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        if self.moves_by_call:
            return super().move(value, context, inverse=inverse, generator=generator)
        return self.bijector.move(value, context, inverse=not inverse, generator=generator)

    @property
    def moves_by_call(self) -> bool:
        """Whether ``move`` is a call of which the log_det is dropped."""
        return moves_by_call(self.bijector)

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.bijector.initialize(value, context, inverse=not inverse, generator=generator)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return (self.bijector.push_score if inverse else self.bijector.pull_score)(value, score, context, generator=generator)

    def parts(self) -> list[Any]:
        inner = self.bijector.parts()
        return [self] if inner == [self.bijector] else [~part for part in reversed(inner)]

    def __invert__(self) -> Bijector:
        return self.bijector

    def merge(self, following: Transform) -> Transform | None:
        if following is self.bijector:
            from flowkit.core.algebra.identity import Identity

            return Identity(self.in_shape)
        if isinstance(following, Inverse):
            merged = following.bijector.merge(self.bijector)
            return Inverse(merged) if isinstance(merged, Bijector) else None
        return None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Inverse]]:
        from flowkit.core.build import build

        coupling = {"name": "coupling", "features": 3, "univariate": {"name": "affine"}, "hidden": (8,)}
        yield "coupling", cls(build(coupling, Bijector))
        yield "affine", cls(build({"name": "affine", "shape": (2,), "context_features": 2}, Bijector))


def moves_by_call(step: Any) -> bool:
    """Whether a map, or every map that it is made of, goes through its log_det to its value."""
    return bool(step.moves_by_call) if hasattr(type(step), "moves_by_call") else type(step).move is Transform.move
