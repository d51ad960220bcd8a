"""The absolute value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._learned import Learned
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import as_shape, sum_event
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits


@SURJECTIONS.register("absolute")
class Absolute(Surjection):
    """x = |z| in every coordinate; the inverse draws the sign with learned probabilities.

    The contribution of ``inverse`` is minus the log-probability of the signs drawn. ``~Absolute`` is the inference form:
    its latent is |x|, its sample gets a random sign, and its likelihood is exact (a symmetric density if the sign is fair).

    Args:
        shape: event shape.
        context_features: size of the context's last axis, which may change the probabilities.
        hidden: widths of the net from the context.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, section 3.1.
    """

    def __init__(self, shape: int | Sequence[int], *, context_features: int = 0, hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.shape, self.context_features, self.hidden = shape, context_features, tuple(hidden)
        self.in_shape = self.out_shape = as_shape(shape, "Absolute")
        if None in self.in_shape:
            raise ConfigError(f"Absolute: expected a shape of known sizes; got {shape!r}.")
        self.context_shape = (context_features,) if context_features else None
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        self.parameters_of = Learned({"logit": torch.zeros(sizes)}, context_features, self.hidden)
        self._codomain = Box(torch.zeros(sizes), torch.full(sizes, math.inf))
        self.traits = Traits(log_det="bound", stochastic=True, jacobian="diagonal")

    def _log_probability(self, positive: Tensor, context: Any) -> Tensor:
        logit = self.parameters_of(context)["logit"].to(positive)
        return sum_event(functional.logsigmoid(torch.where(positive > 0, logit, -logit)), len(self.in_shape))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z.abs(), self._log_probability(torch.where(z < 0, -1.0, 1.0).to(z), context)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        chance = self.parameters_of(context)["logit"].to(x).sigmoid().expand_as(x)
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        sign = torch.where(uniform < chance, 1.0, -1.0).to(x)
        return x * sign, -self._log_probability(sign, context)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Absolute]]:
        yield "vector", cls(3)
        yield "conditional", cls((2,), context_features=2)
