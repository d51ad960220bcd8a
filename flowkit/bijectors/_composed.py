"""Named blocks: a map that is a chain of others under one constructor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.core.algebra.chain import Chain
from flowkit.core.domain.domain import Domain
from flowkit.core.shapes import Context
from flowkit.core.transform import Bijector


class Composed(Bijector):
    """A bijector that calls a chain; a subclass stores its arguments and then gives the parts to ``_compose``."""

    chain: Chain

    def _compose(self, parts: Sequence[Bijector]) -> None:
        self.chain = Chain(parts)
        self.in_shape, self.out_shape = self.chain.in_shape, self.chain.out_shape
        self.context_shape, self.traits = self.chain.context_shape, self.chain.traits

    @property
    def domain(self) -> Domain:
        return self.chain.domain

    @property
    def codomain(self) -> Domain:
        return self.chain.codomain

    def parts(self) -> list[Any]:
        return self.chain.parts()

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.chain(z, context, generator=generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.chain.inverse(x, context, generator=generator)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.chain.masked(value, context, inverse=inverse, generator=generator)

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.chain.initialize(value, context, inverse=inverse, generator=generator)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        return self.chain._carry(value, score, context, generator, inverse)
