"""What maps x = W z + shift share, whatever form W is written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from flowkit.bijectors._matrices import identity_like
from flowkit.bijectors._scores import adjoint
from flowkit.core.errors import ConfigError
from flowkit.core.shapes import as_shape, constant_log_det, positive_sizes, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform
from flowkit.nets._learned import Learned
from flowkit.numerics.precision import full_precision

Parts = Mapping[str, Tensor]


class LinearMap(Bijector):
    """x = W z + shift. A subclass writes the products ``_times`` and ``_solve``; here are the shift, the context and the precision.

    With a context every part is its learned value plus a net of the context that starts at zero: W and shift then differ by row.

    Args:
        event: event shape, all sizes known.
        start: name -> value of W's parameters that training starts from.
        bias: whether a shift is learned.
        context_features: size of the context's last axis, 0 for none.
        hidden: widths of the net's hidden layers.
    """

    traits = Traits(jacobian="constant", score="closed")
    own_names: ClassVar[bool] = False  # the parameters are attributes of the map itself, not of its ``learned``
    bias: bool
    context_features: int
    hidden: tuple[int, ...]

    def __init__(self, event: int | Sequence[int], start: Parts, *, bias: bool, context_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.bias, self.context_features, self.hidden = bias, context_features, positive_sizes(hidden, self.who, "hidden")
        self.in_shape = self.out_shape = as_shape(event, self.who)
        names = dict(start)
        if bias:
            names["shift"] = torch.zeros(tuple(int(size) for size in self.in_shape if size is not None))
        if context_features:
            self.context_shape = (context_features,)
            if not any(value.numel() for value in names.values()):
                raise ConfigError(f"{self.who}: has no parameters for features=1, so a context can change nothing. Drop context_features, or use Identity.")
        self.learned = Learned(names, context_features, self.hidden, owner=self if self.own_names else None)

    def _times(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        """W value and log|det W|, of shape () or the batch shape; parts and value in float32 at least."""
        raise NotImplementedError

    def _solve(self, parts: Parts, value: Tensor) -> tuple[Tensor, Tensor]:
        """W^-1 value and log|det W|."""
        raise NotImplementedError

    def _times_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        """W^T value, without a graph; here the adjoint of the product."""
        return adjoint(lambda point: self._times(parts, point)[0], value)

    def _solve_transposed(self, parts: Parts, value: Tensor) -> Tensor:
        """W^-T value, without a graph; here the adjoint of the solve, which costs as much as another one."""
        return adjoint(lambda point: self._solve(parts, point)[0], value)

    def _values(self) -> dict[str, Tensor]:
        """The learned parameters, without what a context adds to them."""
        return {name: getattr(self, name) for name in self.learned.shapes} if self.own_names else dict(self.learned.values.items())

    def _parts(self, context: Any, dtype: torch.dtype) -> dict[str, Tensor]:
        """The parameters at a context, in the arithmetic's dtype: triangular solves do not exist in half precision."""
        exact = torch.promote_types(dtype, torch.float32)
        return {name: part.to(exact) for name, part in self.learned(context, self._values()).items()}

    def _applied(self, parts: Parts, value: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        with full_precision(value):
            point = value.to(torch.promote_types(value.dtype, torch.float32))
            if inverse:
                out, total = self._solve(parts, point - parts["shift"] if self.bias else point)
            else:
                out, total = self._times(parts, point)
                out = out + parts["shift"] if self.bias else out
        return out.to(value.dtype), constant_log_det(-total if inverse else total, value, self.in_shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        # the parts outside of full precision: the net of the context may run in lower
        return self._applied(self._parts(context, z.dtype), z, inverse=False)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self._applied(self._parts(context, x.dtype), x, inverse=True)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        parts = self._parts(context, value.dtype)
        with full_precision(value):
            exact = torch.promote_types(value.dtype, torch.float32)
            fixed = {name: part.detach() for name, part in parts.items()}
            carried = (self._times_transposed if inverse else self._solve_transposed)(fixed, score.to(exact))
        return *self._applied(parts, value, inverse), carried.to(score.dtype)

    def matrix(self, context: Tensor | None = None) -> Tensor:
        """The matrix W on flattened events: (n, n), or (*B, n, n) with a context (*B, context_features)."""
        first = next(iter(self._values().values()))
        event = tuple(int(size) for size in self.in_shape if size is not None)
        parts = self._parts(None if context is None else context.unsqueeze(-2), first.dtype)  # one set of parts for all columns of W
        columns = identity_like(first, prod(event)).to(torch.promote_types(first.dtype, torch.float32))
        with full_precision(columns):
            images = self._times(parts, columns.reshape(-1, *event))[0]
        return images.flatten(-len(event)).mT.to(first.dtype)

    def _shift(self) -> Tensor:
        """The shift of an unconditional map, zeros if it has none."""
        values = self._values()
        if self.bias:
            return values["shift"]
        return next(iter(values.values())).new_zeros(tuple(int(size) for size in self.in_shape if size is not None))

    def _mergeable(self, following: Transform) -> Self | None:
        """The following map, if it is of this class and shape and neither map has a context."""
        if not isinstance(following, type(self)) or following.in_shape != self.in_shape or self.context_features or following.context_features:
            return None
        return following

    @torch.no_grad()
    def _filled(self, **values: Tensor) -> Any:
        """This freshly built map with those parameters, on their device and of their dtype."""
        self.to(next(iter(values.values())))
        for name, parameter in self._values().items():
            parameter.copy_(values[name])
        return self


class GeneralLinearMap(LinearMap):
    """A form that reaches every invertible W, so that products and inverses stay in it. A subclass writes ``_from_matrix``."""

    def _from_matrix(self, matrix: Tensor, shift: Tensor) -> Any:
        """A map of this class with that W (D, D) and shift (D,)."""
        raise NotImplementedError

    @torch.no_grad()
    def merge(self, following: Transform) -> Transform | None:
        outer = self._mergeable(following)
        if outer is None:
            return None
        matrix = outer.matrix()
        return self._from_matrix(matrix @ self.matrix(), matrix @ self._shift() + outer._shift())

    @torch.no_grad()
    def inverted(self) -> Any:
        if self.context_features:
            return None
        inverse = torch.linalg.inv(self.matrix())
        return self._from_matrix(inverse, -inverse @ self._shift())
