"""Another schedule at sampling than in training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowkit.continuous._calls import time_like
from flowkit.continuous._wrapper import FieldWrapper
from flowkit.core.build import build
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, mask_event
from flowkit.core.vector_field import VectorField
from flowkit.numerics.schedules import Coefficients, Schedule, margin


class _Change(NamedTuple):
    """Trained time t of a sampled time r, its rate dt/dr; factor k of places and its rate relative to it, k'/k."""

    t: Tensor
    t_rate: Tensor
    factor: Tensor
    growth: Tensor


@FIELDS.register("rescheduled_field")
class RescheduledField(FieldWrapper):
    """A field trained on one affine path, made to follow another between the same ends: other trajectories in time and scale, the same pairs.

    At time r of the new path the field is asked at the time t of the same ratio of data to noise, where places differ by a factor k:

        v(r, x) = (k'/k) x + k t' u(t, x / k),   alpha(t) / sigma(t) = alpha_new(r) / sigma_new(r),   k = |(alpha, sigma)_new(r)| / |(alpha, sigma)(t)|

    1. With the angle a = atan2(alpha, sigma) and the length l = |(alpha, sigma)|: a_new(r) = a(t), so t' = a_new'(r) / a'(t) and
       k'/k = l_new'/l_new - t' l'/l. With a' = (alpha' sigma - alpha sigma') / l^2 and l'/l = (alpha alpha' + sigma sigma') / l^2.
    2. Where the new ratio is outside what was trained (a variance-preserving path starts with some data), t stays at its end and only the scale changes.

    Rates are taken 1e-5 or more off both ends, 1e-9 in float64.

    Args:
        field: trained on the path ``trained``, by velocity or wrapped in ``PredictionField``.
        trained, sampled: names of affine paths, or ``{name: ..., **options}``, as in ``PredictionField``.

    Shapes: as the field's.

    Raises:
        UnknownNameError, ConfigError: a path or an option is not known.

    Reference: Karras et al. (2022), arXiv:2206.00364, section 3; Lipman et al. (2024), Flow matching guide and code, arXiv:2412.06264, section 4.6.2.
    """

    def __init__(self, field: VectorField, *, trained: str | Mapping[str, Any] = "linear", sampled: str | Mapping[str, Any] = "trig") -> None:
        super().__init__(field)
        self.trained, self.sampled = trained, sampled
        self._old, self._new = Schedule.of(trained, "RescheduledField"), Schedule.of(sampled, "RescheduledField")

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        change = self._change(time_like(t, x))
        over = _Change(*(mask_event(part, len(self.event_shape)) for part in change))
        return torch.addcmul(over.growth * x, over.factor * over.t_rate, self.field.velocity(change.t, x / over.factor, context))

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        change = self._change(time_like(t, x))
        over = _Change(*(mask_event(part, len(self.event_shape)) for part in change))
        inside, trace = self._both(change.t, x / over.factor, context)
        size = math.prod(x.shape[x.dim() - len(self.event_shape) :])
        return torch.addcmul(over.growth * x, over.factor * over.t_rate, inside), change.growth * size + change.t_rate * trace

    def _change(self, r: Tensor) -> _Change:
        new = self._new.coefficients(r.clamp(margin(r), 1 - margin(r)))
        reached = self._old.time_at(new.alpha, new.sigma)
        t, early, late = self._old.times(reached), reached <= 0, reached >= 1
        old = self._old.coefficients(t)
        (new_square, new_turn, new_growth), (old_square, old_turn, old_growth) = _polar(new), _polar(old)
        t_rate = torch.where(early | late, 0.0, new_turn / old_turn)
        factor, growth = torch.sqrt(new_square / old_square), new_growth - t_rate * old_growth
        # at an end of what was trained only the scale changes: with the noise before, with the data after
        factor = torch.where(early, new.sigma / old.sigma, torch.where(late, new.alpha / old.alpha, factor))
        growth = torch.where(early, new.sigma_rate / new.sigma, torch.where(late, new.alpha_rate / new.alpha, growth))
        return _Change(t, t_rate, factor, growth)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, RescheduledField]]:
        inner = {"name": "mlp_field", "features": 2, "hidden": (6, 6)}
        yield "linear_to_trig", cls(build(inner, VectorField))
        yield "vp_to_linear", cls(build({**inner, "context_features": 2}, VectorField), trained="vp", sampled="linear")


def _polar(at: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
    """Squared length l^2 of (alpha, sigma), the rate a' of its angle, and l'/l."""
    square = at.alpha.square() + at.sigma.square()
    turn = (at.alpha_rate * at.sigma - at.alpha * at.sigma_rate) / square
    return square, turn, (at.alpha * at.alpha_rate + at.sigma * at.sigma_rate) / square
