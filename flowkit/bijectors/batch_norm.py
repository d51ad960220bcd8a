"""Batch normalisation by running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError, DataError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import Context, as_shape, show
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.kernels.diagonal_chain import Steps


@BIJECTORS.register("batch_norm")
class BatchNorm(Bijector):
    """x = (z - mean) / sqrt(var + eps) * exp(log_scale) + shift, per position of event axis 0 (features, or channels).

    ``mean`` and ``var`` are running statistics of z (buffers), also while training. Normalising by the batch at hand, as
    in networks and in Real NVP, makes each sample's density depend on the others, has no inverse (the statistics of the
    batch to be generated are unknown) and a log_det that ignores how they move. Here rows are independent, log_det is
    exact and the inverse is the same map in train and eval mode. A call never changes the statistics: ``initialize``
    (``fit`` does it) sets them from the first batch, once, and ``update`` moves them towards those of another batch.

    ``forward`` is the normalising direction; chain ``~BatchNorm(shape)`` where a flow generates. Entered from the other
    side, ``initialize`` and ``update`` set the statistics that normalise what leaves.

    Args:
        shape: event shape; only the size of axis 0 must be known.
        momentum: weight of the new batch in ``update``, in (0, 1].
        eps: added to the variance.

    Reference: Ioffe and Szegedy (2015), arXiv:1502.03167; Dinh et al. (2017), Real NVP, arXiv:1605.08803, section 3.7.
    """

    traits = Traits(jacobian="constant", score="closed")
    mean: Tensor
    var: Tensor
    initialized: Tensor

    def __init__(self, shape: int | Sequence[int | None], *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.shape, self.momentum, self.eps = shape, momentum, eps
        self.in_shape = self.out_shape = as_shape(shape, "BatchNorm")
        if not self.in_shape or self.in_shape[0] is None:
            raise ShapeError(f"BatchNorm: expected a known size of event axis 0; got {show(self.in_shape)}.")
        if not 0 < momentum <= 1 or not eps > 0:
            raise ConfigError(f"BatchNorm: expected 0 < momentum <= 1 and eps > 0; got {momentum} and {eps}.")
        sizes = (self.in_shape[0], *([1] * (len(self.in_shape) - 1)))
        self.shift = nn.Parameter(torch.zeros(sizes))
        self.log_scale = nn.Parameter(torch.zeros(sizes))
        self.register_buffer("mean", torch.zeros(sizes))
        self.register_buffer("var", torch.ones(sizes))
        self.register_buffer("initialized", torch.tensor(False))

    def _log_scale(self) -> Tensor:
        return self.log_scale - 0.5 * (self.var + self.eps).log()

    def _log_det(self, value: Tensor, sign: int) -> Tensor:
        rank = len(self.in_shape)
        places = value.shape[value.dim() - rank + 1 :].numel() if rank > 1 else 1
        dtype = torch.promote_types(value.dtype, torch.float32)
        return (sign * places * self._log_scale().sum(dtype=dtype)).expand(value.shape[: value.dim() - rank])

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return (z - self.mean) * self._log_scale().exp() + self.shift, self._log_det(z, 1)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return (x - self.shift) * (-self._log_scale()).exp() + self.mean, self._log_det(x, -1)

    def _carry(self, value: Tensor, score: Tensor, context: Any, generator: torch.Generator | None, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            carried = score * (self._log_scale() if inverse else -self._log_scale()).exp()
        return *self._formula(value, context, generator, inverse), carried

    def diagonal_steps(self) -> Steps:
        return Steps("affine,affine", (-self.mean, torch.zeros_like(self.mean), self.shift, self._log_scale()))

    @torch.no_grad()
    def initialize(self, value: Tensor, context: Context = None, *, inverse: bool = False, generator: torch.Generator | None = None) -> Tensor:
        if not bool(self.initialized):
            self.update(value, inverse=inverse, momentum=1.0)
            self.initialized.fill_(True)
        return self._call(value, context, generator, inverse=inverse)[0]

    @torch.no_grad()
    def update(self, value: Tensor, *, inverse: bool = False, momentum: float | None = None) -> None:
        """Move the running statistics towards those of a batch entering this map.

        Args:
            value: (*B, *shape), more than one value a channel.
            inverse: the batch enters ``inverse``.
            momentum: weight of this batch; default the constructor's, 1 forgets all before.

        Raises:
            DataError: a channel of the batch is constant or not finite.
        """
        value = (value - self.shift) * (-self.log_scale).exp() if inverse else value
        rows = value.reshape(-1, *value.shape[value.dim() - len(self.in_shape) :]).transpose(0, 1).flatten(1)
        var, mean = torch.var_mean(rows, dim=1, correction=0)
        if not bool(((var > 0) & torch.isfinite(var)).all()):
            raise DataError("BatchNorm: the batch has a constant or non-finite channel, so no scale can be set. Use a larger batch_size.")
        if inverse:  # z = x' sqrt(var) + mean is to have mean 0 and variance 1
            var, mean = 1 / var, -mean * var.rsqrt()
        weight = self.momentum if momentum is None else momentum
        self.mean.lerp_(mean.reshape(self.mean.shape), weight)
        self.var.lerp_(var.reshape(self.var.shape), weight)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, BatchNorm]]:
        yield "vector", cls((3,))
        yield "image", cls((2, None, None), eps=1e-3)
