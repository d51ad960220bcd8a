"""Linear maps in factored form U S V^T."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log

import torch
from torch import Tensor

from flowkit.bijectors._linear_map import LinearMap, Parts
from flowkit.bijectors._matrices import paired_directions, reflect
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive


@BIJECTORS.register("svd_linear")
class SVDLinear(LinearMap):
    """x = U S V^T z + shift: U and V products of reflections, S = exp(log_scale + b(raw)) with |b| < log(condition) / 2.

    b(r) = r / sqrt(1 + (r / bound)^2) has slope 1 at 0 and never goes flat, so W's condition number stays below ``condition``
    at every parameter value and no gradient dies. Starts as the identity if the number of reflections is even.
    Either direction costs 2 m reflections of O(D), no solve; log_det D additions.

    Args:
        features: D.
        reflections: m, of each of U and V. Default: the even number next to D.
        condition: bound of the ratio of the largest to the smallest singular value, > 1.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none; every factor then depends on it.
        hidden: widths of the hidden layers of the context's net.

    Reference: Zhang, Lei and Dhillon (2018), Stabilizing gradients by efficient SVD parameterization, arXiv:1803.09327.
    """

    def __init__(
        self,
        features: int,
        *,
        reflections: int | None = None,
        condition: float = 1e4,
        bias: bool = True,
        context_features: int = 0,
        hidden: Sequence[int] = (),
    ) -> None:
        size = positive(features, "SVDLinear", "features")
        reflections = None if reflections is None else positive(reflections, "SVDLinear", "reflections")
        count = size + size % 2 if reflections is None else reflections
        if not 1 < condition < float("inf"):
            raise ConfigError(f"SVDLinear: expected a finite condition > 1; got {condition!r}.")
        start = {"log_scale": torch.zeros(1)}
        if size > 1:  # in one dimension the scale is all there is
            start |= {"raw": torch.zeros(size), "left": paired_directions(count, size), "right": paired_directions(count, size)}
        super().__init__(size, start, bias=bias, context_features=context_features, hidden=hidden)
        self.features, self.reflections, self.condition = size, reflections, condition

    def _log_values(self, parts: Parts) -> Tensor:
        """Logarithms of the singular values (*B, D)."""
        scale = parts["log_scale"]
        if "raw" not in parts:
            return scale
        return scale + parts["raw"] / (1 + (parts["raw"] / (log(self.condition) / 2)).square()).sqrt()

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        logs = self._log_values(parts)
        value = (reflect(value, parts["right"]) if "right" in parts else value) * logs.exp()
        return reflect(value, parts["left"]) if "left" in parts else value, logs.sum(-1)

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        logs = self._log_values(parts)
        value = (reflect(value, parts["left"].flip(-2)) if "left" in parts else value) * (-logs).exp()
        return reflect(value, parts["right"].flip(-2)) if "right" in parts else value, logs.sum(-1)

    @torch.no_grad()
    def inverted(self) -> SVDLinear | None:
        if self.context_features:
            return None
        values = dict(self.learned.values.items())
        made = SVDLinear(self.features, reflections=self.reflections, condition=self.condition)
        turned = {"log_scale": -values["log_scale"], "shift": -self._solve(values, self._shift())[0]}
        if "raw" in values:
            turned |= {"raw": -values["raw"], "left": values["right"].flip(0), "right": values["left"].flip(0)}
        return made._filled(**turned)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, SVDLinear]]:
        yield "plain", cls(3)
        yield "conditional", cls(3, reflections=2, context_features=2, hidden=(4,))
        yield "single", cls(1)
