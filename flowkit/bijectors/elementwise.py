"""A univariate map on every coordinate, its parameters learned or given by the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from flowkit.bijectors._conditioning import carry_through, check_univariate, conditioner, traits_over, univariate_domain
from flowkit.bijectors._scores import left
from flowkit.core.build import build
from flowkit.core.checks import checks_finite
from flowkit.core.domain.box import Box
from flowkit.core.entry import separated
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, positive_sizes, whole_number
from flowkit.core.transform import Bijector
from flowkit.core.univariate import Univariate


@BIJECTORS.register("elementwise")
class Elementwise(Bijector):
    """x_i = u(z_i; theta_i), theta a table of learned numbers, or a net of the context.

    Args:
        shape: event shape, all sizes known.
        univariate: the scalar map.
        context_features: size of the context's last axis; 0 learns constants.
        hidden: widths of the net's hidden layers when there is a context.
        activation: of that net.
    """

    def __init__(
        self, shape: int | Sequence[int], univariate: Univariate, *, context_features: int = 0, hidden: Sequence[int] = (64,), activation: str = "relu"
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.context_features, self.hidden = shape, context_features, positive_sizes(hidden, self.who, "hidden")
        self.in_shape = self.out_shape = as_shape(shape, "Elementwise")
        if None in self.in_shape:
            raise ConfigError(f"Elementwise: expected a shape of known sizes; got {shape!r}.")
        self._sizes = tuple(int(size) for size in self.in_shape if size is not None)
        self.context_shape = (context_features,) if context_features else None
        groups = torch.Size(self._sizes).numel()
        self.univariate, self.activation = check_univariate(univariate, self.who), activation
        self._net = conditioner("mlp", "Elementwise", 0, groups, univariate, self.hidden, context_features, activation)
        self._domain, self._codomain = self._box(), self._box()
        self.traits = traits_over(univariate, "diagonal", activation if context_features else "tanh")

    def _box(self) -> Box | None:
        if len(self._sizes) == 1:
            return univariate_domain(self.univariate, list(range(self._sizes[0])), self._sizes[0])
        low, high = self.univariate.intervals(self._sizes[-1] if self._sizes else 1)
        if bool(torch.isinf(low).all() and torch.isinf(high).all()):
            return None
        return Box(low.expand(self._sizes), high.expand(self._sizes)) if self._sizes else Box(low[0], high[0])

    def _params(self, value: Tensor, context: Any) -> Tensor:
        batch = value.shape[: value.dim() - len(self._sizes)]
        params = self._net(value.new_zeros((*batch, 0)), context).to(value.dtype)
        return params.unflatten(-1, (*self._sizes, self.univariate.parameter_count))

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.univariate.transform_event(z, self._params(z, context), len(self._sizes))

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.univariate.untransform_event(x, self._params(x, context), len(self._sizes))

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            params = self._params(value, context)
            out, log_det, carried, _ = carry_through(self.univariate, value, params, None, score, len(self._sizes), inverse=inverse)
        return left(out, log_det, carried, recording)

    def masked_normal(self, value: Tensor, context: Any = None, *, inverse: bool, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        if checks_finite():
            return super().masked_normal(value, context, inverse=inverse, generator=generator)
        value, context = self._prepare(value, context, inverse)
        inside, value = separated(self._codomain if inverse else self._domain, value)
        call = self.univariate.untransform_event if inverse else self.univariate.transform_event
        return call(value, self._params(value, context), len(self._sizes), "normal")[1], inside

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Elementwise]]:
        spline = build({"name": "rational_quadratic_spline", "bins": 4}, Univariate)
        yield "spline", cls(2, spline)
        bounded = build({"name": "rational_quadratic_spline", "bins": 3, "bound": (0.0, 1.0), "ends": "bounded"}, Univariate)
        yield "bounded_conditional", cls(2, bounded, context_features=2, hidden=(8,))
        yield "image", cls((2, 2, 2), build({"name": "affine"}, Univariate))
