"""Radial maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._scores import Solve, carry_solved
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets._learned import Learned

FLOOR = 1e-3  # of alpha and of alpha + beta


@BIJECTORS.register("radial")
class Radial(Bijector):
    """x = z + beta (z - c) / (alpha + r), r = |z - c|, with alpha > 0 and gamma = alpha + beta > 0 for all parameters.

    Distances from c go from r to r (gamma + r) / (alpha + r), which increases, so the map is invertible; both directions
    are closed and cost a few products of D:

    1. s = |x - c| = r (gamma + r) / (alpha + r)  <=>  r^2 - t r - alpha s = 0 with t = s - gamma.
    2. Its one root >= 0 is r = (t + q) / 2 with q = sqrt(t^2 + 4 alpha s); for t < 0 the same number without cancellation
       is 2 alpha s / (q - t). Squares are taken of shares of the largest number: far out nothing overflows before x does.
    3. log_det = (D - 1) log((gamma + r) / (alpha + r)) + log(ds/dr), both arguments sums of positive terms:
       with e = r / (alpha + r) and f = alpha / (alpha + r), ds/dr = e (1 + f) + f gamma / (alpha + r).

    Starts as the identity (alpha = gamma = 1) around a random centre. Gradients are finite at z = c too, where second
    derivatives jump.

    Args:
        features: D.
        context_features: size of the context's last axis; shifts c, alpha and gamma.
        hidden, activation: widths of the context net's hidden layers, and its activation.

    Reference: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770, equation 14 and
    appendix A.2.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Radial
        >>> f = Radial(3)
        >>> z, _ = f.inverse(f(torch.ones(3))[0])
        >>> bool((z - 1).abs().max() < 1e-6)
        True
    """

    traits = Traits(score="closed", smooth=False)

    def __init__(self, features: int, *, context_features: int = 0, hidden: Sequence[int] = (), activation: str = "silu") -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.hidden = positive(features, "Radial", "features"), positive_sizes(hidden, self.who, "hidden")
        self.context_features = context_features
        self.activation = activation
        self.in_shape = self.out_shape = (self.features,)
        self.context_shape = (context_features,) if context_features else None
        one = torch.full((1,), math.log(math.expm1(1 - FLOOR)))  # where softplus and the floor make 1
        self.learned = Learned({"centre": torch.randn(self.features), "alpha": one, "gamma": one}, context_features, self.hidden, activation)

    def _parts(self, context: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Centre (*B, D), alpha and gamma (*B, 1)."""
        values = self.learned(context)
        alpha, gamma = (functional.softplus(values[name]) + FLOOR for name in ("alpha", "gamma"))
        return values["centre"], alpha, gamma

    def _stretch(self, r: Tensor, alpha: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """s / r and ds / dr (*B, 1)."""
        away = alpha + r
        e, f, g = r / away, alpha / away, gamma / away
        return e + g, e * (1 + f) + f * g

    def _log_det(self, r: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
        across, along = self._stretch(r, alpha, gamma)
        return sum_event((self.features - 1) * torch.log(across) + torch.log(along), 1)

    def _at(self, z: Tensor, context: Any) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v: J stretches by ds/dr along the offset and by s / r across it."""
        centre, alpha, gamma = self._parts(context)
        offset = z - centre
        r = _norm(offset)

        def solve(v: Tensor) -> Tensor:
            across, along = self._stretch(r, alpha, gamma)
            way = offset / torch.where(r == 0, torch.ones_like(r), r)
            return v / across + way * (way * v).sum(-1, keepdim=True) * (1 / along - 1 / across)

        return z + (gamma - alpha) / (alpha + r) * offset, self._log_det(r, alpha, gamma), solve

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, log_det, _ = self._at(z, context)
        return x, log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        centre, alpha, gamma = self._parts(context)
        offset = x - centre
        s = _norm(offset)
        t = s - gamma
        size = torch.maximum(s, gamma).detach()  # taken out, so that no square overflows
        root = size * torch.sqrt((t / size).square() + 4 * (alpha / size) * (s / size))
        half = 0.5 * root + 0.5 * t.abs()  # positive: t is -gamma where s is zero
        r = torch.where(t >= 0, half, alpha * (s / half))
        return x - (gamma - alpha) / (gamma + r) * offset, -self._log_det(r, alpha, gamma)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse:  # the call and one product of the other direction
            return super()._carry(value, score, context, generator, inverse)
        return carry_solved(lambda z: self._at(z, context), value, score)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Radial]]:
        yield "plain", cls(3)
        yield "conditional", cls(2, context_features=2, hidden=(8,))
        yield "single", cls(1)


def _norm(value: Tensor) -> Tensor:
    """|value| with its axis kept (*B, 1), gradient zero where it is zero; the largest entry is taken out, so that no square overflows."""
    info = torch.finfo(value.dtype)
    largest = value.detach().abs().amax(-1, keepdim=True).clamp(max=info.max)
    zero = largest == 0
    square = (value / torch.where(zero, torch.ones_like(largest), largest)).square().sum(-1, keepdim=True)
    return (largest * torch.where(zero, torch.ones_like(square), square).sqrt()).clamp(max=info.max)
