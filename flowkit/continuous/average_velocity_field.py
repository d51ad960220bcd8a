"""Average velocities between two times, for flows that sample in one or a few steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.continuous._activations import ACTIVATIONS
from flowkit.continuous._calls import time_like
from flowkit.continuous.mlp_field import MLPField
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context


@FIELDS.register("average_velocity_field")
class AverageVelocityField(MLPField):
    """A multilayer perceptron u(t, r, x) for the average velocity from time t to time r along a trajectory; its velocity is v(t, x) = u(t, t, x).

        x_r = x_t + (r - t) u(t, r, x_t),    u(t, r, x_t) = 1 / (r - t) int_t^r v(s, x_s) ds

    A step of any length costs one evaluation. As a velocity field it has the exact divergence and the whole-trajectory kernel of ``MLPField``.
    Nothing forces u to be the average of v: ``objectives.MeanFlow`` trains it to be.

    Args:
        features: d.
        hidden: widths of the hidden layers, at least one.
        activation, context_features: as for ``MLPField``.

    Shapes: t, r () or (*B), x (*B, d), context (*B, context_features) -> (*B, d).

    Reference: Geng et al. (2025), Mean Flows for One-step Generative Modeling, arXiv:2505.13447.

    Example:
        >>> import torch
        >>> from flowkit.continuous import AverageVelocityField
        >>> field, x, t = AverageVelocityField(3), torch.ones(5, 3), torch.tensor(0.25)
        >>> torch.equal(field.average_velocity(t, t, x), field.velocity(t, x))
        True
    """

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), *, activation: str = "silu", context_features: int = 0) -> None:
        super().__init__(features, hidden, activation=activation, context_features=context_features)
        bound = float(self.time.detach().abs().max())
        self.end = nn.Parameter(torch.empty_like(self.time).uniform_(-bound, bound))

    def average_velocity(self, t: Tensor, r: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """u(t, r, x): (*B, d)."""
        act, layers = ACTIVATIONS[self.activation][0], self._linear()
        h = act(self._between(t, r, x, context))
        for layer in layers[1:-1]:
            h = act(layer(h))
        return layers[-1](h)  # type: ignore[no-any-return]

    def jump(self, t: Tensor, r: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """Where the trajectory through x at time t is at time r: x + (r - t) u(t, r, x), (*B, d)."""
        span = time_like(r - t, x)
        return x + (span if span.dim() == 0 else span.unsqueeze(-1)) * self.average_velocity(t, r, x, context)

    def trajectory_weights(self, context: Context = None) -> dict[str, Any] | None:
        weights = super().trajectory_weights(context)
        return weights if weights is None else {**weights, "r1": self.time + self.end}

    def _first(self, t: Tensor, x: Tensor, context: Context) -> Tensor:
        return self._between(t, t, x, context)

    def _between(self, t: Tensor, r: Tensor, x: Tensor, context: Context) -> Tensor:
        """The first layer before its activation: the end time adds a column of its own."""
        end = time_like(r, x)
        return super()._first(t, x, context) + (end if end.dim() == 0 else end.unsqueeze(-1)) * self.end

    @classmethod
    def examples(cls) -> Iterator[tuple[str, AverageVelocityField]]:
        yield "two_hidden", cls(2, (8, 8))
        yield "conditional", cls(3, (7, 5), activation="tanh", context_features=2)
