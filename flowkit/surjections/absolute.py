"""The absolute value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import as_shape, sum_event, whole_number
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits
from flowkit.nets._learned import Learned


@SURJECTIONS.register("absolute")
class Absolute(Surjection):
    """x = |z| in every coordinate; the inverse draws the sign with learned probabilities.

    The contribution of ``inverse`` is minus the log-probability of the signs drawn. ``~Absolute`` is the inference form:
    its latent is |x|, its sample gets a random sign, and its likelihood is exact (a symmetric density if the sign is fair).

    Args:
        shape: event shape.
        context_features: size of the context's last axis; a linear map of it, zero at the start, is added to the logits.

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, section 3.1.
    """

    logit: Tensor

    def __init__(self, shape: int | Sequence[int], *, context_features: int = 0) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.context_features = shape, context_features
        self.in_shape = self.out_shape = as_shape(shape, "Absolute")
        if None in self.in_shape:
            raise ConfigError(f"Absolute: expected a shape of known sizes; got {shape!r}.")
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        self.net = Learned({"logit": torch.zeros(sizes)}, context_features, owner=self)
        if context_features:
            self.context_shape = (context_features,)
        self._codomain = Box(torch.zeros(sizes), torch.full(sizes, math.inf))
        self.traits = Traits(log_det="bound", stochastic=True, jacobian="diagonal")

    def _logits(self, context: Any, like: Tensor) -> Tensor:
        return self.net(context, {"logit": self.logit})["logit"].to(like)

    def _log_probability(self, sign: Tensor, context: Any) -> Tensor:
        return sum_event(functional.logsigmoid(sign * self._logits(context, sign)), len(self.in_shape))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z.abs(), self._log_probability(torch.where(z < 0, -1.0, 1.0).to(z), context)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        chance = self._logits(context, x).sigmoid().expand_as(x)
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        sign = torch.where(uniform < chance, 1.0, -1.0).to(x)
        return x * sign, -self._log_probability(sign, context)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Absolute]]:
        yield "vector", cls(3)
        yield "conditional", cls((2,), context_features=2)
