"""Space to channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from flowkit.bijectors._scores import carry_orthogonal
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import BIJECTORS
from flowkit.core.shapes import positive, positive_sizes, zeros_log_det
from flowkit.core.traits import Traits
from flowkit.core.transform import Bijector

ORDERS = ("channel", "position", "checkerboard")


@BIJECTORS.register("squeeze")
class Squeeze(Bijector):
    """Every block of fh x fw pixels becomes one pixel of C fh fw channels; log_det = 0. ``~Squeeze`` is the unsqueeze.

    Orders of the new channels, for pixels a, b / c, d of a block and channels 1, 2, ...:

    - "channel": a1 b1 c1 d1 a2 b2 ..., all of a channel together (Glow; torch's ``pixel_unshuffle``);
    - "position": a1 a2 ... b1 b2 ..., all of a pixel together (the downsampling of i-RevNet);
    - "checkerboard": as "position" with the pixels of even row + column first, a d b c, so that halves of the channels
      are the two colours of a checkerboard (Real NVP).

    Args:
        channels: C.
        factor: of both axes, or (fh, fw).
        order: of the new channels.

    Raises:
        ShapeError: H or W is not a multiple of its factor.

    Reference: Dinh et al. (2017), Real NVP, arXiv:1605.08803, section 3.6; Jacobsen et al. (2018), i-RevNet, arXiv:1802.07088.
    """

    traits = Traits(jacobian="constant", score="closed", volume_preserving=True)
    gather: Tensor
    scatter: Tensor

    def __init__(self, channels: int, factor: int | Sequence[int] = 2, *, order: Literal["channel", "position", "checkerboard"] = "channel") -> None:
        super().__init__()
        if isinstance(factor, Sequence) and len(factor) != 2:
            raise ConfigError(f"Squeeze: expected a factor, or two (fh, fw); got {factor!r}.")
        sizes = positive_sizes(factor, "Squeeze", "factor") if isinstance(factor, Sequence) else (positive(factor, "Squeeze", "factor"),)
        self.channels, self.factor, self.order = positive(channels, "Squeeze", "channels"), sizes if len(sizes) == 2 else sizes[0], order
        self._sizes = sizes[0], sizes[-1]
        if order not in ORDERS:
            raise ConfigError(f"Squeeze: expected order to be one of {', '.join(ORDERS)}; got {order!r}.")
        self._block = self._sizes[0] * self._sizes[1]
        self.in_shape, self.out_shape = (self.channels, None, None), (self.channels * self._block, None, None)
        places = [(i, j) for i in range(self._sizes[0]) for j in range(self._sizes[1])]
        chosen = sorted(range(self._block), key=lambda k: sum(places[k]) % 2) if order == "checkerboard" else list(range(self._block))
        self.register_buffer("gather", torch.tensor(chosen), persistent=False)
        self.register_buffer("scatter", torch.tensor(chosen).argsort(), persistent=False)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        (fh, fw), (height, width), batch = self._sizes, z.shape[-2:], z.shape[:-3]
        if height % fh or width % fw:
            raise ShapeError(f"Squeeze: expected height and width to be multiples of {self._sizes}; got {height} x {width}. Pad or crop the images.")
        blocks = z.reshape(*batch, self.channels, height // fh, fh, width // fw, fw).movedim((-3, -1), (-4, -3))  # (*B, C, fh, fw, h, w)
        blocks = blocks.reshape(*batch, self.channels, self._block, height // fh, width // fw)
        if self.order != "channel":
            blocks = blocks.index_select(-3, self.gather).transpose(-4, -3)
        return blocks.flatten(-4, -3), zeros_log_det(z, self.in_shape)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        (fh, fw), (height, width), batch = self._sizes, x.shape[-2:], x.shape[:-3]
        if self.order == "channel":
            blocks = x.reshape(*batch, self.channels, self._block, height, width)
        else:
            blocks = x.reshape(*batch, self._block, self.channels, height, width).transpose(-4, -3).index_select(-3, self.scatter)
        blocks = blocks.reshape(*batch, self.channels, fh, fw, height, width).movedim((-4, -3), (-3, -1))
        return blocks.reshape(*batch, self.channels, height * fh, width * fw), zeros_log_det(x, self.out_shape)

    _carry = carry_orthogonal

    @classmethod
    def examples(cls) -> Iterator[tuple[str, Squeeze]]:
        yield "two", cls(2)
        yield "checkerboard", cls(1, (2, 4), order="checkerboard")
        yield "position", cls(2, (1, 2), order="position")
