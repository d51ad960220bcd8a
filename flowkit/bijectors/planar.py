"""Planar maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scalar_roots import tanh_root, tanh_slope
from flowkit.bijectors._scores import Solve, carry_solved
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets._learned import Learned


@BIJECTORS.register("planar")
class Planar(Bijector):
    """x = z + u_hat tanh(w.z + b), with u_hat = u / (1 + softplus(-w.u)), so that w.u_hat > -1 for every u, w, b.

    The paper moves u along w / |w|^2 instead; the scaling here reaches the same maps and is smooth at w = 0. Both slopes that
    matter are sums of positive terms: 1 + w.u_hat = (1 + softplus(w.u)) / (1 + softplus(-w.u)), never below about
    1 / (1 + |w.u|). Starts as the identity (u = 0).

    Forward costs two products of D. The inverse finds one root a scalar, of v + (w.u_hat) tanh(v) = w.x + b, for all rows
    at once; gradients through it are exact.

    Args:
        features: D.
        context_features: size of the context's last axis; shifts u, w and b.
        hidden, activation: widths of the context net's hidden layers, and its activation.

    Reference: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770, equations 10 to 12
    and appendix A.1.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Planar
        >>> f = Planar(2)
        >>> z, _ = f.inverse(f(torch.ones(2))[0])
        >>> bool((z - 1).abs().max() < 1e-6)
        True
    """

    traits = Traits(inverse="iterative", score="closed")

    def __init__(self, features: int, *, context_features: int = 0, hidden: Sequence[int] = (), activation: str = "silu") -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.hidden = positive(features, "Planar", "features"), positive_sizes(hidden, self.who, "hidden")
        self.context_features = context_features
        self.activation = activation
        self.in_shape = self.out_shape = (self.features,)
        self.context_shape = (context_features,) if context_features else None
        start = {"u": torch.zeros(self.features), "w": torch.randn(self.features) / self.features**0.5, "b": torch.zeros(1)}
        self.learned = Learned(start, context_features, self.hidden, activation)

    def _parts(self, context: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """w (*B, D), b (*B), u_hat (*B, D), the factor w.u_hat (*B) and 1 + w.u_hat (*B); no batch without a context."""
        values = self.learned(context)
        u, w, b = values["u"], values["w"], values["b"].squeeze(-1)
        product = (w * u).sum(-1)
        shrink = 1 + functional.softplus(-product)
        return w, b, u / shrink.unsqueeze(-1), product / shrink, (1 + functional.softplus(product)) / shrink

    def _at(self, z: Tensor, context: Any) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v = v - w (u_hat.v) (1 - t^2) / det J, as J = I + (1 - t^2) u_hat w'."""
        w, b, u_hat, _, gap = self._parts(context)
        t = torch.tanh((w * z).sum(-1) + b)
        slope = tanh_slope(t, gap)

        def solve(v: Tensor) -> Tensor:
            return v - w * ((u_hat * v).sum(-1) * (1 - t.square()) / slope).unsqueeze(-1)

        return z + u_hat * t.unsqueeze(-1), sum_event(slope.log(), 0), solve

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, log_det, _ = self._at(z, context)
        return x, log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        w, b, u_hat, factor, gap = self._parts(context)
        t = torch.tanh(tanh_root((w * x).sum(-1) + b, factor, gap))
        return x - u_hat * t.unsqueeze(-1), sum_event(-tanh_slope(t, gap).log(), 0)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse:  # the call and one product of the other direction
            return super()._carry(value, score, context, generator, inverse)
        return carry_solved(lambda z: self._at(z, context), value, score)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Planar]]:
        yield "plain", cls(3)
        yield "conditional", cls(2, context_features=2, hidden=(8,))
        yield "single", cls(1)
