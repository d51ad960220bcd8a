"""Fields whose network predicts data, noise or a score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from flowkit.continuous._calls import time_like
from flowkit.continuous._wrapper import FieldWrapper
from flowkit.core.build import build
from flowkit.core.errors import UnknownNameError, nearest
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, mask_event
from flowkit.core.vector_field import VectorField
from flowkit.numerics.schedules import Coefficients, Quantity, Schedule, convert, margin, velocity_weights


@FIELDS.register("prediction_field")
class PredictionField(FieldWrapper):
    """The velocity along an affine path x_t = alpha x1 + sigma x0 that a network's prediction of x1, x0 or the score implies.

        v = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) x1 = (alpha'/alpha) x + (sigma' - sigma alpha'/alpha) x0,   score = -x0 / sigma

    ``FlowMatching`` with the same path regresses the prediction itself. "data" is singular at t = 1, "noise" and "score" at t = 0; times are
    kept 1e-5 off there, 1e-9 in float64. Precision is lost like rounding / sigma, or rounding / alpha.

    Args:
        field: its output is the prediction.
        predicts: "velocity", "data", "noise" or "score"; the score is that of a standard normal base, paired independently.
        path: name of an affine path, or ``{name: ..., **options}``: "linear", "trig", "vp", "linear_vp", "polynomial", "target_ot".

    Shapes: as the field's.

    Raises:
        UnknownNameError, ConfigError: an option is not known.

    Reference: Salimans and Ho (2022), Progressive distillation, arXiv:2202.00512, appendix D; Lipman et al. (2024), arXiv:2412.06264, section 4.8.

    Example:
        >>> import torch
        >>> from flowkit.continuous import MLPField, PredictionField
        >>> field, x, t = PredictionField(MLPField(2), predicts="data"), torch.ones(3, 2), torch.tensor(0.5)
        >>> torch.allclose(field.velocity(t, x), (field.prediction(t, x) - x) / 0.5)
        True
    """

    def __init__(
        self, field: VectorField, *, predicts: Literal["velocity", "data", "noise", "score"] = "velocity", path: str | Mapping[str, Any] = "linear"
    ) -> None:
        super().__init__(field)
        if predicts not in get_args(Quantity):
            raise UnknownNameError(f"PredictionField: nothing to predict named {predicts!r}. {nearest(str(predicts), get_args(Quantity))}")
        self.predicts: Quantity = predicts
        self.path = path
        self.schedule = Schedule.of(path, "PredictionField")

    def prediction(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """What the network says: (*B, *event)."""
        return self.field.velocity(t, x, context)

    def converted(self, target: Quantity, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """The prediction as another quantity: ``field.converted("score", t, x)``."""
        return convert(self.prediction(t, x, context), x, self.predicts, target, self._at(t, x))

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        predicted = self.prediction(t, x, context)
        return convert(predicted, x, self.predicts, "velocity", self._at(t, x))

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        predicted, trace = self._both(t, x, context)
        p, q = velocity_weights(self.predicts, self.schedule.coefficients(self._times(t, x)))
        size = math.prod(x.shape[x.dim() - len(self.event_shape) :])
        return convert(predicted, x, self.predicts, "velocity", self._at(t, x)), p * size + q * trace

    def _times(self, t: Tensor, x: Tensor) -> Tensor:
        t = time_like(t, x)
        return t if self.predicts == "velocity" else t.clamp(max=1 - margin(t)) if self.predicts == "data" else t.clamp(min=margin(t))

    def _at(self, t: Tensor, x: Tensor) -> Coefficients:
        return self.schedule.coefficients(mask_event(self._times(t, x), len(self.event_shape)))

    @classmethod
    def examples(cls) -> Iterator[tuple[str, PredictionField]]:
        inner = {"name": "mlp_field", "features": 2, "hidden": (6, 6)}
        yield "data", cls(build(inner, VectorField), predicts="data")
        yield "noise_vp", cls(build({**inner, "context_features": 2}, VectorField), predicts="noise", path="vp")
        yield "score", cls(build(inner, VectorField), predicts="score", path={"name": "polynomial", "power": 3.0})
        yield "velocity", cls(build(inner, VectorField))
