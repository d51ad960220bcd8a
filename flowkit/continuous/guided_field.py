"""Classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from flowkit.continuous._wrapper import FieldWrapper
from flowkit.core.build import build
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, check_context
from flowkit.core.vector_field import VectorField


@FIELDS.register("guided_field")
class GuidedField(FieldWrapper):
    """A conditional field pushed away from what it does without the condition.

        v = v_null + scale (v_context - v_null)

    scale = 1 is exactly the conditional field and scale = 0 exactly the one of the null context, at one pass each; other scales take two.
    Above 1 samples follow the condition more closely and vary less. Train with the context dropped in some rows
    (``FlowMatching(label_drop=0.1)``); the flow's density is then that of the guided field, not the data's. A field that predicts something
    else is guided the same way, for velocities are affine in what it predicts.

    Args:
        field: with a context.
        scale: finite.
        null: what stands for no context, of the context's shape; kept as it is now. Default: zeros, or the label -1.

    Shapes: t () or (*B), x (*B, *event), context (*B, *context) or a dict -> (*B, *event).

    Raises:
        ConfigError: the field has no context, or the scale is not finite. ShapeError: ``null`` is not of the context's shape.

    Reference: Ho and Salimans (2022), Classifier-free diffusion guidance, arXiv:2207.12598.

    Example:
        >>> import torch
        >>> from flowkit.continuous import GuidedField, MLPField
        >>> field, x, context = MLPField(2, context_features=1), torch.zeros(3, 2), torch.ones(3, 1)
        >>> torch.equal(GuidedField(field, 1.0).velocity(torch.tensor(0.5), x, context), field.velocity(torch.tensor(0.5), x, context))
        True
    """

    scale: float
    null: Tensor | None

    def __init__(self, field: VectorField, scale: float, *, null: Tensor | None = None) -> None:
        super().__init__(field)
        if isinstance(scale, bool) or not isinstance(scale, Real) or not math.isfinite(scale):
            raise ConfigError(f"GuidedField: expected scale to be a finite number; got {scale!r}.")
        if field.context_shape is None:
            raise ConfigError(f"GuidedField: expected a field with a context; {type(field).__name__} has none. Build it with context_features=.")
        self.scale = float(scale)
        if null is not None and (isinstance(field.context_shape, dict) or tuple(null.shape) != tuple(field.context_shape)):
            raise ShapeError(f"GuidedField: expected null of shape {field.context_shape}, one context; got {tuple(null.shape)}.")
        self.register_buffer("null", None if null is None else null.detach().clone())

    def null_context(self, context: Context) -> Context:
        """No context, in the shape of a given one."""
        if self.null is not None:
            assert isinstance(context, Tensor)
            return self.null.to(context).expand_as(context)
        if isinstance(context, Mapping):
            return {key: _none_like(part) for key, part in context.items()}
        assert context is not None
        return _none_like(context)

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        check_context(context, self.context_shape, "GuidedField")
        if self.scale == 1:
            return self.field.velocity(t, x, context)
        without = self.field.velocity(t, x, self.null_context(context))
        return without if self.scale == 0 else torch.lerp(without, self.field.velocity(t, x, context), self.scale)

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        check_context(context, self.context_shape, "GuidedField")
        if self.scale == 1:
            return self._both(t, x, context)
        without = self._both(t, x, self.null_context(context))
        if self.scale == 0:
            return without
        given = self._both(t, x, context)
        return torch.lerp(without[0], given[0], self.scale), torch.lerp(without[1], given[1], self.scale)

    def trajectory_weights(self, context: Context = None) -> dict[str, Any] | None:
        """Those of the field inside where the scale is 1 or 0, so that the same code solves both; else None."""
        describe = getattr(self.field, "trajectory_weights", None)
        if describe is None or context is None or self.scale not in (0, 1):
            return None
        weights: dict[str, Any] | None = describe(context if self.scale == 1 else self.null_context(context))
        return weights

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GuidedField]]:
        described: dict[str, Any] = {"name": "mlp_field", "features": 2, "hidden": (6, 6), "context_features": 2}
        yield "beyond", cls(build(described, VectorField), 2.5)
        yield "own_null", cls(build(described, VectorField), 0.5, null=torch.tensor([1.0, -1.0]))


def _none_like(part: Tensor) -> Tensor:
    return torch.zeros_like(part) if part.is_floating_point() else torch.full_like(part, -1)
