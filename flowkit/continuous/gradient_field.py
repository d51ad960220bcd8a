"""Gradient fields of a scalar network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.continuous._activations import CURVED, check_activation
from flowkit.continuous._calls import check_call, hidden_sizes, time_like
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, positive, whole_number
from flowkit.core.vector_field import VectorField


class _Pass(NamedTuple):
    """Slopes and curvatures of the activations of every layer, and the gradients g_k with respect to h_k: (*B, w) each."""

    last: Tensor
    slopes: list[Tensor]
    curvatures: list[Tensor]
    gradients: list[Tensor]


@FIELDS.register("gradient_field")
class GradientField(VectorField):
    """v = grad_x phi(t, x) of a multilayer perceptron phi: a field without rotation, with an exact divergence.

        phi = w' h_n,  h_1 = act(W_1 x + r t + C context + b_1),  h_k = act(W_k h_{k-1} + b_k)

    1. Gradient, by back-substitution:  g_n = w,  g_{k-1} = W_k' (act'(a_k) * g_k),  v = g_0.
    2. Divergence:  tr d2phi/dx2 = sum_k sum_i act''(a_ki) g_ki |J_ki|^2,  J_1 = W_1,  J_{k+1} = W_{k+1} diag(act'(a_k)) J_k = da_{k+1}/dx:
       O(w) for a sample and the first layer, O(d w^2) for each further one.

    Args:
        features: d.
        hidden: widths of the hidden layers, at least one.
        activation: "softplus", "log_cosh" (the integral of tanh), "tanh", "silu" or "gelu"; twice differentiable.
        context_features: size of the context's last axis.

    Shapes: t () or (*B), x (*B, d), context (*B, context_features) -> (*B, d).

    Reference: Neklyudov et al. (2023), Action Matching: Learning Stochastic Dynamics from Samples, arXiv:2210.06662.
    """

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), *, activation: str = "softplus", context_features: int = 0) -> None:
        super().__init__()
        self.features, self.hidden = positive(features, "GradientField", "features"), hidden_sizes(hidden, "GradientField")
        self.context_features = whole_number(context_features, "GradientField", "context_features", 0)
        self.activation = check_activation(activation, "GradientField", CURVED)
        self.event_shape, self.context_shape = (self.features,), (self.context_features,) if self.context_features else None
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise([self.features, *self.hidden]))
        self.time = nn.Parameter(torch.empty(self.hidden[0]).uniform_(-1, 1) / math.sqrt(self.features + 1))
        self.context_layer = nn.Linear(self.context_features, self.hidden[0], bias=False) if self.context_features else None
        self.weight = nn.Parameter(torch.empty(self.hidden[-1]).uniform_(-1, 1) / math.sqrt(self.hidden[-1]))

    def potential(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        """phi(t, x), up to a constant: (*B)."""
        return self._sweep(t, x, context).last @ self.weight

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        return self._velocity(self._sweep(t, x, context))

    def divergence(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:  # type: ignore[override]
        """Laplacian of phi in x, exact: (*B)."""
        return self._laplacian(self._sweep(t, x, context))

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Both from one pass: (*B, d) and (*B)."""
        swept = self._sweep(t, x, context)
        return self._velocity(swept), self._laplacian(swept)

    def _linear(self) -> list[Any]:
        return list(self.layers)

    def _sweep(self, t: Tensor, x: Tensor, context: Context) -> _Pass:
        check_call(self, x, context)
        act, layers, time = CURVED[self.activation], self._linear(), time_like(t, x)
        if time.dim() == 0:
            a = functional.linear(x, layers[0].weight, torch.addcmul(layers[0].bias, self.time, time))
        else:
            a = torch.addcmul(layers[0](x), time.unsqueeze(-1), self.time)
        if self.context_layer is not None and isinstance(context, Tensor):
            a = a + self.context_layer(context.to(x.dtype))
        h, slope, curvature = act(a)
        slopes, curvatures = [slope], [curvature]
        for layer in layers[1:]:
            h, slope, curvature = act(functional.linear(h, layer.weight, layer.bias))
            slopes.append(slope)
            curvatures.append(curvature)
        gradients: list[Tensor] = [self.weight]
        for layer, slope in zip(reversed(layers[1:]), reversed(slopes[1:]), strict=True):
            gradients.append((slope * gradients[-1]) @ layer.weight)
        return _Pass(h, slopes, curvatures, gradients[::-1])

    def _velocity(self, swept: _Pass) -> Tensor:
        return (swept.slopes[0] * swept.gradients[0]) @ self._linear()[0].weight  # type: ignore[no-any-return]

    def _laplacian(self, swept: _Pass) -> Tensor:
        layers = self._linear()
        first: Tensor = layers[0].weight
        total = (swept.curvatures[0] * swept.gradients[0]) @ first.square().sum(-1)
        rows = first.mT  # (d, w), then (*B, d, w): da_k/dx, transposed
        for layer, slope, curvature, gradient in zip(layers[1:], swept.slopes, swept.curvatures[1:], swept.gradients[1:], strict=False):
            rows = (slope.unsqueeze(-2) * rows) @ layer.weight.mT
            total = total + (curvature * gradient * rows.square().sum(-2)).sum(-1)
        return total

    @classmethod
    def examples(cls) -> Iterator[tuple[str, GradientField]]:
        yield "two_hidden", cls(3, (6, 7))
        yield "conditional", cls(2, (5,), activation="log_cosh", context_features=2)
        yield "deep", cls(2, (5, 4, 6), activation="silu")
