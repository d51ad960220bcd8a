"""Orthogonal maps as products of reflections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._matrices import paired_directions, reflect
from flowkit.bijectors._scores import carry_orthogonal
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, whole_number, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform
from flowkit.nets._learned import Learned


@BIJECTORS.register("householder")
class Householder(Bijector):
    """x = H_m ... H_1 z with H = I - 2 v v^T / |v|^2; orthogonal, log_det = 0.

    Directions start in equal pairs, so an even number of reflections starts as the identity.
    Each direction costs m products of O(D).

    Args:
        features: D.
        reflections: m.
        context_features: size of the context's last axis, 0 for none; the directions are then shifted by a net of it.
        hidden: widths of the net's hidden layers.

    Reference: Tomczak and Welling (2016), Householder flow, arXiv:1611.09630, equations 9 to 11.
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    directions: Tensor

    def __init__(self, features: int, reflections: int = 2, *, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.reflections = positive(features, "Householder", "features"), positive(reflections, "Householder", "reflections")
        self.context_features, self.hidden = context_features, positive_sizes(hidden, self.who, "hidden")
        self.in_shape = self.out_shape = (self.features,)
        start = {"directions": paired_directions(self.reflections, self.features)}
        self.net = Learned(start, context_features, self.hidden, owner=self)
        if context_features:
            self.context_shape = (context_features,)

    def _directions_at(self, context: Any) -> Tensor:
        return self.net(context, {"directions": self.directions})["directions"]

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return reflect(z, self._directions_at(context)), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return reflect(x, self._directions_at(context).flip(-2)), zeros_log_det(x, self.in_shape)

    _carry = carry_orthogonal

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Householder) or following.in_shape != self.in_shape or self.context_features or following.context_features:
            return None
        return self._copy(torch.cat([self.directions, following.directions]))

    def inverted(self) -> Householder | None:
        return None if self.context_features else self._copy(self.directions.flip(0))

    @torch.no_grad()
    def _copy(self, directions: Tensor) -> Householder:
        made = Householder(self.features, len(directions)).to(directions)
        made.directions.copy_(directions)
        return made

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Householder]]:
        yield "pair", cls(3, 2)
        yield "three", cls(4, 3)
        yield "conditional", cls(3, 2, context_features=2)
