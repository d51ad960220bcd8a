"""The contract of targets: densities known up to a constant, which flows are trained against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowkit.core.build.describe import brief_arguments
from flowkit.core.domain.domain import Domain
from flowkit.core.domain.real import Real
from flowkit.core.errors import ConfigError
from flowkit.core.inference_mode import outside_inference
from flowkit.core.registry import TARGETS, Registry
from flowkit.core.shapes import Shape
from flowkit.core.traits import Traits


class Target(nn.Module):
    """An unnormalised density. Implement ``log_density``; declare what else is known.

    Names of invariances, for an event x of shape (D,), a point of R^D, or (N, d), N particles in R^d:

        rotation      x -> Q x, Q in SO(D); the same Q in SO(d) for all particles
        reflection    x -> x - 2 (v . x) v, any unit v of R^D; of R^d and the same for all particles
        translation   x -> x + c, any c in R^D; c in R^d and the same for all particles
        permutation   any order of the D coordinates; of the N particles
        sign          x -> -x, for events of any rank

    Any other name, say that of a lattice symmetry, is the target's own: ``symmetry`` says what it does.

    Attributes:
        event_shape: shape of one event.
        log_normalizer: log of the integral of exp(log_density), or None when it is not known.
        invariances: names of symmetries the density has.
        can_sample: whether ``sample`` draws exactly.
        traits: ``compiles``, ``vmaps`` and ``known_failures`` of log_density; a target uses no others.
    """

    registries: ClassVar[tuple[Registry, ...]] = (TARGETS,)
    event_shape: Shape
    log_normalizer: float | None = None
    invariances: frozenset[str] = frozenset()
    can_sample: bool = False
    traits: Traits = Traits()

    @property
    def domain(self) -> Domain:
        """Where the density lives; all of R^n unless a target says otherwise."""
        shape = getattr(self, "event_shape", None)
        if not isinstance(shape, tuple):
            who = type(self).__name__
            raise ConfigError(f"{who}: expected event_shape, a tuple of sizes; got {shape!r}. Set self.event_shape = (features,) in {who}.__init__.")
        return Real(shape)

    def log_density(self, x: Tensor) -> Tensor:
        """Unnormalised log-density: (*B, *event) -> (*B)."""
        raise NotImplementedError(f"{type(self).__name__} defines no log_density.")

    def forward(self, x: Tensor) -> Tensor:
        return self.log_density(x)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of the log-density: (*B, *event) -> (*B, *event)."""
        return outside_inference(f"{type(self).__name__}.score", self._differentiated, x)  # type: ignore[no-any-return]

    def _differentiated(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_density(x).sum(), x)
        return gradient

    def sample(self, n: int | tuple[int, ...], generator: torch.Generator | None = None) -> Tensor | None:
        """Exact draws (*n, *event), or None where there is no sampler."""
        return None

    def symmetry(self, name: str, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Apply a random element of a symmetry to events: (*B, *event) -> (*B, *event).

        Only for names in ``invariances`` other than the five that have a fixed meaning; None for a name that is not known.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """``{name: <registered>, **arguments}``."""
        from flowkit.core.build import describe

        return describe(self)

    def extra_repr(self) -> str:
        return brief_arguments(self)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Target]]:
        """Small labelled instances."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
