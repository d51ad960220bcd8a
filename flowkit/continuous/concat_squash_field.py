"""Velocity fields whose layers are gated by time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.continuous._activations import ACTIVATIONS, check_activation
from flowkit.continuous._calls import check_call, hidden_sizes, time_like
from flowkit.continuous._trace import trace_of_layers
from flowkit.core.registry import FIELDS
from flowkit.core.shapes import Context, positive, whole_number
from flowkit.core.vector_field import VectorField


@FIELDS.register("concat_squash_field")
class ConcatSquashField(VectorField):
    """A multilayer perceptron whose every layer is scaled and shifted by time, with an exact divergence.

        a_k = g_k(t) * (W_k h_{k-1} + b_k) + r_k t,  g_k(t) = sigmoid(p_k t + q_k),  h_k = act(a_k),  v = a_n

    A context is added to the first layer, inside its gate. Where the time is common to the batch the gates go into the weights, once
    for a call; the divergence then costs O(w^2) for a sample with two hidden layers, and O(d w^2) with a time per sample.

    Args:
        features: d.
        hidden: widths of the hidden layers, at least one.
        activation: "tanh", "softplus", "silu", "gelu", "elu" or "selu".
        context_features: size of the context's last axis.

    Shapes: t () or (*B), x (*B, d), context (*B, context_features) -> (*B, d).

    Reference: Grathwohl et al. (2019), FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models, arXiv:1810.01367.
    """

    def __init__(self, features: int, hidden: Sequence[int] = (64, 64), *, activation: str = "tanh", context_features: int = 0) -> None:
        super().__init__()
        self.features, self.hidden = positive(features, "ConcatSquashField", "features"), hidden_sizes(hidden, "ConcatSquashField")
        self.context_features = whole_number(context_features, "ConcatSquashField", "context_features", 0)
        self.activation = check_activation(activation, "ConcatSquashField")
        self.event_shape, self.context_shape = (self.features,), (self.context_features,) if self.context_features else None
        sizes = [self.features, *self.hidden, self.features]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))
        self.context_layer = nn.Linear(self.context_features, sizes[1], bias=False) if self.context_features else None
        # p, q and r of all layers, one after the other: three operations serve every gate
        self.gate_slope, self.gate_bias, self.shift = (nn.Parameter(torch.empty(sum(sizes[1:])).uniform_(-1, 1)) for _ in range(3))

    def velocity(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:
        return self._sweep(t, x, context, ACTIVATIONS[self.activation][0])[0]

    def divergence(self, t: Tensor, x: Tensor, context: Context = None) -> Tensor:  # type: ignore[override]
        """Trace of dv/dx, exact: (*B)."""
        return self.velocity_and_divergence(t, x, context)[1]

    def velocity_and_divergence(self, t: Tensor, x: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """Both from one pass through the hidden layers: (*B, d) and (*B)."""
        slopes: list[Tensor] = []
        activation = ACTIVATIONS[self.activation][1]

        def act(a: Tensor) -> Tensor:
            h, slope = activation(a)
            slopes.append(slope)
            return h

        v, weights, gates = self._sweep(t, x, context, act)
        if gates is None:
            return v, trace_of_layers(weights, slopes)
        slopes = [slope * gate for slope, gate in zip(slopes, gates[:-1], strict=True)]
        return v, trace_of_layers(weights, slopes, gates[-1])

    def trajectory_weights(self, context: Context = None) -> dict[str, Any] | None:
        """The arguments of ``kernels.mlp_trajectory`` that describe this field; None where it has not two hidden layers of one width."""
        if len(self.hidden) != 2 or self.hidden[0] != self.hidden[1]:
            return None
        weights: dict[str, Any] = {"gates": torch.stack([self.gate_slope, self.gate_bias], dim=-1), "activation": self.activation}
        for number, (layer, shift) in enumerate(zip(self._linear(), self._split(self.shift), strict=True), 1):
            weights |= {f"W{number}": layer.weight, f"b{number}": layer.bias, f"r{number}": shift}
        if self.context_layer is not None:
            weights["b1"] = weights["b1"] + self._context(context)
        return weights

    def _linear(self) -> list[Any]:
        return list(self.layers)

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split([*self.hidden, self.features], dim=-1)

    def _context(self, context: Context) -> Tensor:
        assert self.context_layer is not None and isinstance(context, Tensor)
        return functional.linear(context.to(self.shift.dtype), self.context_layer.weight)

    def _sweep(self, t: Tensor, x: Tensor, context: Context, act: Any) -> tuple[Tensor, list[Tensor], tuple[Tensor, ...] | None]:
        """The velocity, the weights, and the gates unless they are in the weights already."""
        check_call(self, x, context)
        time, layers = time_like(t, x), self._linear()
        common = time.dim() == 0
        time = time if common else time.unsqueeze(-1)
        gates = self._split(torch.sigmoid(torch.addcmul(self.gate_bias, self.gate_slope, time)))
        shifts, extra = self._split(self.shift * time), None if self.context_layer is None else self._context(context)
        weights: list[Tensor] = []
        h = x
        for number, (layer, gate, shift) in enumerate(zip(layers, gates, shifts, strict=True), 1):
            weights.append(layer.weight * gate.unsqueeze(-1) if common else layer.weight)
            if common:
                a = functional.linear(h, weights[-1], torch.addcmul(shift, layer.bias, gate))
                a = a if extra is None else a + extra * gate
            else:
                a = functional.linear(h, layer.weight, layer.bias)
                a = torch.addcmul(shift, a if extra is None else a + extra, gate)
            extra = None
            h = act(a) if number < len(layers) else a
        return h, weights, None if common else gates

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ConcatSquashField]]:
        yield "two_hidden", cls(3, (8, 8))
        yield "conditional", cls(2, (6,), activation="elu", context_features=2)
        yield "deep", cls(2, (5, 6, 7), activation="softplus")
