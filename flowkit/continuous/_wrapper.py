"""What fields made from another field share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import Context
from flowkit.core.vector_field import VectorField
from flowkit.numerics.divergence import field_and_divergence


class FieldWrapper(VectorField):
    """A field on the events and contexts of another; its divergence is exact where the other's is.

    Implement ``velocity`` and ``velocity_and_divergence``.
    """

    def __init__(self, field: VectorField) -> None:
        super().__init__()
        if not isinstance(field, VectorField):
            raise ConfigError(f"{type(self).__name__}: expected a velocity field; got {type(field).__name__}. Subclass VectorField.")
        self.field = field
        self.event_shape, self.context_shape = field.event_shape, field.context_shape

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Both from one pass: (*B, *event) and (*B)."""
        raise NotImplementedError(f"{type(self).__name__} defines no velocity_and_divergence.")

    def _both(self, t: Tensor, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Velocity of the field inside and its exact divergence."""
        return field_and_divergence(self.field, t, x, context, mode="analytic")

    def _own_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        return self.velocity_and_divergence(t, x, context)[1]

    @property
    def divergence(self) -> Callable[..., Tensor] | None:  # type: ignore[override]
        """The trace of dv/dx (*B) as a method of (t, x, context), or None where the field inside has none of its own."""
        return None if self.field.divergence is None else self._own_divergence
