"""Activation normalisation with data-dependent initialisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import DataError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, as_shape, show
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector, Transform
from flowkit.kernels.diagonal_chain import Steps


@BIJECTORS.register("act_norm")
class ActNorm(Bijector):
    """x = z exp(log_scale) + shift, one pair of numbers per position of event axis 0 (features, or channels of images).

    The identity until ``initialize`` has seen a batch, which then leaves with mean 0 and standard deviation 1;
    the flag is a buffer, so a loaded map never initialises again.

    Args:
        shape: event shape; only the size of axis 0 must be known.

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, section 3.1.
    """

    traits = Traits(jacobian="constant", score="closed")
    initialized: Tensor

    def __init__(self, shape: int | Sequence[int | None]) -> None:
        super().__init__()
        self.shape = shape
        self.in_shape = self.out_shape = as_shape(shape, "ActNorm")
        if not self.in_shape or self.in_shape[0] is None:
            raise ShapeError(f"ActNorm: expected a known size of event axis 0; got {show(self.in_shape)}.")
        sizes = (self.in_shape[0], *([1] * (len(self.in_shape) - 1)))
        self.shift = nn.Parameter(torch.zeros(sizes))
        self.log_scale = nn.Parameter(torch.zeros(sizes))
        self.register_buffer("initialized", torch.tensor(False))

    def _log_det(self, value: Tensor, sign: int) -> Tensor:
        rank = len(self.in_shape)
        places = value.shape[value.dim() - rank + 1 :].numel() if rank > 1 else 1
        dtype = torch.promote_types(value.dtype, torch.float32)
        return (sign * places * self.log_scale.sum(dtype=dtype)).to(dtype).expand(value.shape[: value.dim() - rank])

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return z * self.log_scale.exp() + self.shift, self._log_det(z, 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return (x - self.shift) * (-self.log_scale).exp(), self._log_det(x, -1)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            carried = score * (self.log_scale if inverse else -self.log_scale).exp()
        return *self._formula(value, context, generator, inverse), carried

    def diagonal_steps(self) -> Steps:
        return Steps("affine", (self.shift, self.log_scale))

    @torch.no_grad()
    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        if not bool(self.initialized):
            rows = value.reshape(-1, *value.shape[value.dim() - len(self.in_shape) :]).transpose(0, 1).flatten(1)
            std, mean = torch.std_mean(rows, dim=1, correction=0)
            if not bool(((std > 0) & torch.isfinite(std)).all()):
                raise DataError("ActNorm: the first batch has a constant or non-finite channel, so no scale can be set. Use a larger batch_size.")
            mean, log_std = mean.reshape(self.shift.shape), std.log().reshape(self.shift.shape)
            self.log_scale.copy_(log_std if inverse else -log_std)
            self.shift.copy_(mean if inverse else -mean * (-log_std).exp())
            self.initialized.fill_(True)
        return self._call(value, context, generator, inverse=inverse)[0]

    def inverted(self) -> ActNorm | None:
        if not bool(self.initialized):
            return None
        return self._copy(-self.shift * (-self.log_scale).exp(), -self.log_scale)

    def merge(self, following: Transform) -> Transform | None:
        if not isinstance(following, ActNorm) or following.in_shape != self.in_shape:
            return None
        if not bool(self.initialized & following.initialized):
            return None  # the merged map would count as initialised, and no batch would ever set it
        scale = following.log_scale.exp()
        return self._copy(self.shift * scale + following.shift, self.log_scale + following.log_scale)

    @torch.no_grad()
    def _copy(self, shift: Tensor, log_scale: Tensor) -> ActNorm:
        made = ActNorm(self.shape).to(shift)
        made.shift.copy_(shift)
        made.log_scale.copy_(log_scale)
        made.initialized.fill_(True)
        return made

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ActNorm]]:
        yield "vector", cls((3,))
        yield "image", cls((2, None, None))
