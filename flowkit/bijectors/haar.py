"""Haar wavelets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_orthogonal
from flowkit.bijectors.squeeze import Squeeze
from flowkit.core.errors import ConfigError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector
from flowkit.numerics.precision import full_precision


@BIJECTORS.register("haar")
class Haar(Bijector):
    """One level of the orthonormal Haar wavelet transform: (C, H, W) -> (4 C, H / 2, W / 2); log_det = 0.

    A block a, b / c, d of a channel becomes its average (a + b + c + d) / 2 and the differences across columns
    (a - b + c - d) / 2, across rows (a + b - c - d) / 2 and along the diagonal (a - b - c + d) / 2.
    A constant image ends in the averages alone. Apply it again to the averages for further levels.

    Args:
        channels: C.
        order: "channel" keeps the four numbers of a channel together, "wavelet" puts the averages of all channels first.

    Raises:
        ShapeError: H or W is odd.

    Reference: Mallat (2009), A Wavelet Tour of Signal Processing, section 7.7; Ardizzone et al. (2019), arXiv:1907.02392, section 3.
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    mixing: Tensor

    def __init__(self, channels: int, *, order: Literal["channel", "wavelet"] = "channel") -> None:
        super().__init__()
        self.channels, self.order = positive(channels, "Haar", "channels"), order
        if order not in ("channel", "wavelet"):
            raise ConfigError(f"Haar: expected order to be 'channel' or 'wavelet'; got {order!r}.")
        self.in_shape, self.out_shape = (self.channels, None, None), (4 * self.channels, None, None)
        self._blocks = Squeeze(self.channels)
        pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        self.register_buffer("mixing", 0.5 * torch.kron(pair, pair), persistent=False)  # symmetric: its own inverse

    def _mix(self, blocks: Tensor) -> Tensor:
        """(*B, C, 4, h, w): the four numbers of every block transformed."""
        with full_precision(blocks):
            return (self.mixing.to(blocks.dtype) @ blocks.flatten(-2)).reshape(blocks.shape)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        blocks = self._mix(self._blocks(z)[0].unflatten(-3, (self.channels, 4)))
        if self.order == "wavelet":
            blocks = blocks.transpose(-4, -3)
        return blocks.flatten(-4, -3), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        wavelet = self.order == "wavelet"
        blocks = x.unflatten(-3, (4, self.channels) if wavelet else (self.channels, 4))
        blocks = self._mix(blocks.transpose(-4, -3) if wavelet else blocks)
        return self._blocks.inverse(blocks.flatten(-4, -3))[0], zeros_log_det(x, self.out_shape)

    _carry = carry_orthogonal

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Haar]]:
        yield "channel", cls(2)
        yield "wavelet", cls(2, order="wavelet")
