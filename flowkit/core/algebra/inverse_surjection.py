"""A surjection turned around."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.core.domain.domain import Domain
from flowkit.core.errors import ConfigError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import Context
from flowkit.core.surjection import Surjection

_TURNED = {"forward": "inverse", "inverse": "forward"}


@SURJECTIONS.register("inverse_surjection")
class InverseSurjection(Surjection):
    """~f of a surjection: a generative surjection used for inference, and the other way round. ``~~f`` is f itself.

    The likelihood is exact where the inverse draws nothing, so turning a bound around gives an exact one.

    Args:
        surjection: the map to turn around.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, table 2.
    """

    def __init__(self, surjection: Surjection) -> None:
        super().__init__()
        if not isinstance(surjection, Surjection):
            raise ConfigError(f"InverseSurjection: expected a surjection; got {type(surjection).__name__}. ~f turns a bijector around.")
        self.surjection = surjection
        self.in_shape, self.out_shape = surjection.out_shape, surjection.in_shape
        self.context_shape = surjection.context_shape
        self.draws = frozenset(_TURNED[side] for side in surjection.draws)
        self.traits = surjection.traits.but(log_det="bound" if "inverse" in self.draws else "exact")

    @property
    def domain(self) -> Domain:
        return self.surjection.codomain

    @property
    def codomain(self) -> Domain:
        return self.surjection.domain

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.surjection.inverse(z, context, generator=generator)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.surjection(x, context, generator=generator)

    def _masked(self, value: Tensor, context: Context, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.surjection.masked(value, context, inverse=not inverse, generator=generator)

    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.surjection.initialize(value, context, inverse=not inverse, generator=generator)

    def parts(self) -> list[Any]:
        inner = self.surjection.parts()
        return [self] if inner == [self.surjection] else [~part for part in reversed(inner)]

    def __invert__(self) -> Surjection:
        return self.surjection

    @classmethod
    def examples(cls) -> Iterator[tuple[str, InverseSurjection]]:
        from flowkit.core.build import build

        yield "absolute", cls(build({"name": "absolute", "shape": (2,)}, Surjection))
