"""Sylvester maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowkit.bijectors._matrices import reflect, solve_triangular, times, triangular
from flowkit.bijectors._scalar_roots import tanh_root, tanh_slope
from flowkit.bijectors._scores import Solve, carry_solved
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.nets._learned import Learned
from flowkit.numerics.precision import full_precision

FLOOR = 1e-3  # of the diagonal of S, and of 1 + R_ii S_ii


@BIJECTORS.register("sylvester")
class Sylvester(Bijector):
    """x = z + Q R tanh(S Q^T z + b): Q (D, M) with orthonormal columns, R and S (M, M) upper triangular, R_ii S_ii > -1.

    Q is the first M columns of a product of Householder reflections. S_ii > 0 (a sign would pass through tanh into R) and
    1 + R_ii S_ii > 0 are softplus with a floor, so every parameter value is valid. Starts as the identity (R = 0).

    log_det = sum_i log(1 + R_ii S_ii (1 - tanh^2 v_i)), v = S Q^T z + b. Inverse: v + S R tanh(v) = S Q^T x + b is upper
    triangular, so M scalar roots are found from the last to the first, each for all rows at once, then
    z = x - Q R tanh(v); gradients through it are exact. Forward costs O((reflections) D + M^2).

    Args:
        features: D.
        rank: M, at most D.
        reflections: number of reflections; default M, enough for any Q up to the signs of its columns.
        context_features: size of the context's last axis; shifts all of Q's directions, R, S and b.
        hidden, activation: widths of the context net's hidden layers, and its activation.

    Reference: van den Berg et al. (2018), Sylvester Normalizing Flows, arXiv:1803.05649, equations 10 to 13.
    """

    traits = Traits(inverse="iterative", score="closed")

    def __init__(
        self, features: int, rank: int, *, reflections: int | None = None, context_features: int = 0, hidden: Sequence[int] = (), activation: str = "silu"
    ) -> None:
        super().__init__()
        reflections = None if reflections is None else positive(reflections, "Sylvester", "reflections")
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.features, self.rank = positive(features, "Sylvester", "features"), positive(rank, "Sylvester", "rank")
        if self.rank > self.features:
            raise ConfigError(f"Sylvester: expected rank <= features = {self.features}; got {self.rank}. Lower rank.")
        self.reflections, self.context_features, self.hidden = reflections, context_features, positive_sizes(hidden, self.who, "hidden")
        self.activation = activation
        self.in_shape = self.out_shape = (self.features,)
        self.context_shape = (context_features,) if context_features else None
        one = math.log(math.expm1(1 - FLOOR))  # where softplus and the floor make 1
        start = {"gap": torch.full((self.rank,), one), "scale": torch.full((self.rank,), one), "b": torch.zeros(self.rank)}
        if self.rank > 1:
            start["factors"] = torch.zeros(self.rank, self.rank)  # R above the diagonal, S^T below it
        if self.features > 1:
            start["directions"] = torch.randn(self.rank if reflections is None else reflections, self.features)
        self.learned = Learned(start, context_features, self.hidden, activation)

    def _parts(self, context: Any) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """All values, R and S (*B, M, M), and 1 + R_ii S_ii (*B, M); no batch without a context."""
        values = self.learned(context)
        scale, gap = (functional.softplus(values[name]) + FLOOR for name in ("scale", "gap"))
        factors = values.get("factors")
        right = triangular(factors, (gap - 1) / scale, upper=True)
        left = triangular(None if factors is None else factors.mT, scale, upper=True)
        return values, right, left, gap

    def _at(self, z: Tensor, context: Any) -> tuple[Tensor, Tensor, Solve]:
        """x, log_det and v -> J^-T v = v + Q ((I + A)^-1 - I) Q^T v with A = S^T (1 - t^2) R^T, lower triangular."""
        values, right, left, gap = self._parts(context)
        with full_precision(z):
            t = torch.tanh(times(left, self._project(z, values)) + values["b"])
            x = z + self._embed(times(right, t), values)

        def solve(v: Tensor) -> Tensor:
            with full_precision(v):
                inner = self._project(v, values)
                product = (left.mT * (1 - t.square()).unsqueeze(-2)) @ right.mT
                matrix = product.tril(-1) + torch.diag_embed(tanh_slope(t, gap))
                return v + self._embed(solve_triangular(matrix, inner, upper=False) - inner, values)

        return x, sum_event(tanh_slope(t, gap).log(), 1), solve

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x, log_det, _ = self._at(z, context)
        return x, log_det

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        values, right, left, gap = self._parts(context)
        with full_precision(x):
            y, both = times(left, self._project(x, values)) + values["b"], left @ right
            t = y[..., :0]
            for i in reversed(range(self.rank)):
                rest = y[..., i] - (both[..., i, i + 1 :] * t).sum(-1)
                solved = torch.tanh(tanh_root(rest, gap[..., i] - 1, gap[..., i]))
                t = torch.cat([solved.unsqueeze(-1), t], dim=-1)
            z = x - self._embed(times(right, t), values)
        return z, sum_event(-tanh_slope(t, gap).log(), 1)

    def _project(self, value: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Q^T value: (*B, D) -> (*B, M)."""
        return (reflect(value, values["directions"]) if "directions" in values else value)[..., : self.rank]

    def _embed(self, value: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Q value: (*B, M) -> (*B, D)."""
        value = functional.pad(value, (0, self.features - self.rank))
        return reflect(value, values["directions"].flip(-2)) if "directions" in values else value

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse:  # the call and one product of the other direction
            return super()._carry(value, score, context, generator, inverse)
        return carry_solved(lambda z: self._at(z, context), value, score)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Sylvester]]:
        yield "plain", cls(4, 2)
        yield "conditional", cls(3, 3, context_features=2, hidden=(8,))
        yield "single", cls(1, 1)
