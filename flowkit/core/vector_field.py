"""The contract of velocity fields for continuous flows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

from torch import Tensor, nn

from flowkit.core.registry import FIELDS, Registry
from flowkit.core.shapes import Context, ContextShape, Shape


class VectorField(nn.Module):
    """A velocity v(t, x) on events of a shape; fields with a cheap exact divergence define ``divergence`` as a method.

    Attributes:
        event_shape: shape of x's event.
        context_shape: as for transforms.
        divergence: None, or a method ``divergence(t, x, context=None) -> (*B)``.
    """

    registries: ClassVar[tuple[Registry, ...]] = (FIELDS,)
    event_shape: Shape
    context_shape: ContextShape = None
    divergence: Callable[..., Tensor] | None = None

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """Velocity at time t (() or (*B)) and place x (*B, *event): (*B, *event)."""
        raise NotImplementedError(f"{type(self).__name__} defines no velocity.")

    def forward(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        return self.velocity(t, x, context)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, VectorField]]:
        """Small labelled instances."""
        raise NotImplementedError(f"{cls.__name__} defines no examples().")
