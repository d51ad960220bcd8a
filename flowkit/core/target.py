"""The contract of targets: densities known up to a constant, which flows are trained against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowkit.core.domain.domain import Domain
from flowkit.core.domain.real import Real
from flowkit.core.registry import TARGETS, Registry
from flowkit.core.shapes import Shape


class Target(nn.Module):
    """An unnormalised density. Implement ``log_density``; declare what else is known.

    Attributes:
        event_shape: shape of one event.
        log_normalizer: log of the integral of exp(log_density), or None when it is not known.
        invariances: names of symmetries the density has ("permutation", "translation", "rotation", "reflection", "sign").
        can_sample: whether ``sample`` draws exactly.
    """

    registries: ClassVar[tuple[Registry, ...]] = (TARGETS,)
    event_shape: Shape
    log_normalizer: float | None = None
    invariances: frozenset[str] = frozenset()
    can_sample: bool = False

    @property
    def domain(self) -> Domain:
        """Where the density lives."""
        return Real(self.event_shape)

    def log_density(self, x: Tensor) -> Tensor:
        """Unnormalised log-density: (*B, *event) -> (*B)."""
        raise NotImplementedError(f"{type(self).__name__} defines no log_density.")

    def forward(self, x: Tensor) -> Tensor:
        return self.log_density(x)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log-density: (*B, *event) -> (*B, *event)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_density(x).sum(), x)
        return gradient

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor | None:
        """Exact draws (*n, *event), or None where there is no sampler."""
        return None

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Target]]:
        """Small labelled instances."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
