"""The probability integral transform."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_diagonal
from flowkit.core.build import build
from flowkit.core.distribution import Distribution
from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.kernels.diagonal_steps import inside_unit
from flowkit.numerics.inverse_cdf import solve_quantile


@BIJECTORS.register("cdf")
class CDF(Bijector):
    """x_i = F(z_i), F the distribution function of a base with independent coordinates; ``~CDF(base)`` is its quantile function.

    From the base's support to (0, 1), log_det = base.log_prob(z). Bases without ``icdf``, and those that find it by root
    finding, make the inverse iterative. Values stay off 0 and 1 by a rounding unit, as do inputs of the inverse. Near 1 the
    spacing of floats limits the round trip to eps / density: with a normal base z beyond 5.3 (float32) or 8.2 (float64) cannot
    be told apart; near 0 it goes to -12.9 and -37.5. log_det has no such limit. It is as smooth as the base's density.

    Args:
        distribution: the base; it offers ``cdf``. Its parameters are learned with the map, and its context is the map's.

    Raises:
        ConfigError: the base has no cdf, or an event shape that is not known.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = distribution
        shape = distribution.event_shape
        if not hasattr(distribution, "cdf") or None in shape:
            raise ConfigError(f"CDF: expected a base with a cdf and a known event shape; got {type(distribution).__name__}. Use e.g. StandardNormal.")
        self.in_shape = self.out_shape = shape
        self.context_shape = distribution.context_shape
        self._domain = distribution.support
        self._codomain = Box(0.0, 1.0, tuple(int(size) for size in shape if size is not None))
        closed = hasattr(distribution, "icdf") and not getattr(distribution, "iterative_icdf", False)
        self.traits = Traits(inverse="closed" if closed else "iterative", jacobian="diagonal", score="closed")

    def _cdf(self, z: Tensor, context: Any) -> Tensor:
        law: Any = self.distribution
        return law.cdf(z) if self.context_shape is None else law.cdf(z, context)

    def _quantile(self, x: Tensor, context: Any) -> Tensor:
        law: Any = self.distribution
        if hasattr(law, "icdf"):
            return law.icdf(x) if self.context_shape is None else law.icdf(x, context)
        support = self._domain
        low, high = (support.low_buffer, support.high_buffer) if isinstance(support, Box) else (-torch.inf, torch.inf)
        return solve_quantile(lambda z: self._cdf(z, context), x, low=low, high=high)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = inside_unit(self._cdf(z, context))
        return torch.where(torch.isnan(z), z, x), self.distribution.log_prob(z, context)  # some bases call NaN outside: 0 or 1

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        z = self._quantile(inside_unit(x), context)
        return z, -self.distribution.log_prob(z, context)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        if inverse:  # the call and one product of the other direction
            return super()._carry(value, score, context, generator, inverse)
        return carry_diagonal(self, value, score, context, generator, inverse)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CDF]]:
        yield "normal", cls(build({"name": "diagonal_normal", "shape": (2,), "scale": 3.0, "context_features": 2}, Distribution))
        yield "student_t", cls(build({"name": "student_t", "shape": (1,), "df": 3.0, "scale": 2.0, "learn_df": True}, Distribution))
        ends = {"loc": torch.tensor([0.5]), "scale": torch.tensor([2.0])}
        yield "laplace", cls(build({"name": "torch_distribution", "distribution": "Laplace", "arguments": ends, "event_rank": 1}, Distribution))
