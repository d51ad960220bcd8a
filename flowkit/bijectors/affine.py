"""Diagonal affine map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import as_shape, sum_event, whole_number
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform
from flowkit.kernels.diagonal_chain import Steps


@BIJECTORS.register("affine")
class Affine(Bijector):
    """x = z exp(log_scale) + loc, coordinate by coordinate; with a context both come from a linear map of it.

    Args:
        shape: event shape, all sizes known.
        loc, scale: where training starts; a number or a tensor that broadcasts to the shape; scale > 0.
        context_features: size of the context's last axis, 0 for none.

    Example:
        >>> import torch
        >>> from flowkit.bijectors import Affine
        >>> x, log_det = Affine(shape=(2,), scale=2.0)(torch.ones(2))
        >>> x.tolist(), round(log_det.item(), 4)
        ([2.0, 2.0], 1.3863)
    """

    traits = Traits(jacobian="diagonal", score="closed")

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        context_features = whole_number(context_features, self.who, "context_features", 0)
        self.shape, self.loc, self.scale, self.context_features = shape, loc, scale, context_features
        self.in_shape = self.out_shape = as_shape(shape, "Affine")
        if None in self.in_shape:
            raise ConfigError(f"Affine: expected a shape of known sizes; got {shape!r}.")
        start = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        if not bool((start > 0).all()):
            raise ConfigError(f"Affine: expected scale > 0; got {scale}.")
        sizes = tuple(int(size) for size in self.in_shape if size is not None)
        self.shift = nn.Parameter(torch.as_tensor(loc, dtype=torch.get_default_dtype()).expand(sizes).clone())
        self.log_scale = nn.Parameter(start.log().expand(sizes).clone())
        self.net: nn.Linear | None = None
        if context_features:
            self.context_shape = (context_features,)
            self.net = nn.Linear(context_features, 2 * self.shift.numel(), bias=False)
            nn.init.zeros_(self.net.weight)

    def _parameters_at(self, context: Any) -> tuple[Tensor, Tensor]:
        if self.net is None:
            return self.shift, self.log_scale
        shift, log_scale = self.net(context).to(self.shift.dtype).unflatten(-1, (2, *self.shift.shape)).unbind(-1 - self.shift.dim())
        return self.shift + shift, self.log_scale + log_scale

    def _log_det(self, log_scale: Tensor, value: Tensor) -> Tensor:
        rank = len(self.in_shape)
        total = sum_event(log_scale, rank)
        total = total if rank else total.clone()  # a view of a parameter would ask for a gradient under no_grad too
        return total.expand(value.shape[: value.dim() - rank])

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters_at(context)
        return z * log_scale.exp() + shift, self._log_det(log_scale, z)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._parameters_at(context)
        return (x - shift) * (-log_scale).exp(), self._log_det(-log_scale, x)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            _, log_scale = self._parameters_at(context)
            carried = score * (log_scale if inverse else -log_scale).exp()
        return *self._formula(value, context, generator, inverse), carried

    def diagonal_steps(self) -> Steps | None:
        return Steps("affine", (self.shift, self.log_scale)) if self.net is None else None

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, Affine) or self.net is not None or following.net is not None or self.in_shape != following.in_shape:
            return None
        scale = following.log_scale.exp()
        return self._copy(self.shift * scale + following.shift, self.log_scale + following.log_scale)

    def inverted(self) -> Affine | None:
        return None if self.net is not None else self._copy(-self.shift * (-self.log_scale).exp(), -self.log_scale)

    def _copy(self, shift: Tensor, log_scale: Tensor) -> Affine:
        made = Affine(self.shape).to(shift)
        with torch.no_grad():
            made.shift.copy_(shift)
            made.log_scale.copy_(log_scale)
        return made

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Affine]]:
        yield "vector", cls((3,), loc=0.5, scale=2.0)
        yield "conditional", cls((2,), context_features=3)
        yield "scalar", cls(())
