"""Masked convolutions: every pixel sees those before it in raster order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._parts import activation_module


@NETS.register("pixel_cnn")
class PixelCNN(nn.Module):
    """Outputs for channel c of pixel (i, j) depend on the rows above i, on the pixels left of j and on the channels before c.

    Two stacks of masked residual convolutions: a vertical one that sees all rows above, and a horizontal one that sees
    the row up to the pixel and is fed by the vertical one; together they leave no blind spot. Hidden channels of the
    horizontal stack are divided in as many groups as there are channels, group g seeing channels < g of its own pixel.
    The last (1x1) convolution starts at zero. A context is a vector per image, added to both stacks.

    Args:
        in_channels: C of the images.
        outputs_per_channel: numbers for each channel of each pixel.
        hidden: equal widths, at least C, one per residual block of each stack.
        context_features: size of the context's last axis.
        activation: as for ``MLP``.
        kernel: odd size of the window, 3 or more; a pixel sees (kernel // 2) (len(hidden) + 1) rows up.

    Shapes: x (*B, C, H, W), context (*B, context_features) -> (*B, C * outputs_per_channel, H, W), channel by channel.

    Reference: van den Oord et al. (2016), Conditional image generation with PixelCNN decoders, arXiv:1606.05328, sections
    2.1 and 2.2, with residual blocks in place of gated ones; Salimans et al. (2017), PixelCNN++, arXiv:1701.05517.
    """

    def __init__(
        self,
        in_channels: int,
        outputs_per_channel: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "relu",
        kernel: int = 3,
    ) -> None:
        super().__init__()
        kernel = positive(kernel, "PixelCNN", "kernel")
        context_features = whole_number(context_features, "PixelCNN", "context_features", 0)
        channels = self.in_channels = positive(in_channels, "PixelCNN", "in_channels")
        self.outputs_per_channel = positive(outputs_per_channel, "PixelCNN", "outputs_per_channel")
        self.hidden, self.context_features, self.activation, self.kernel = positive_sizes(hidden, "PixelCNN", "hidden"), context_features, activation, kernel
        if len(set(self.hidden)) != 1 or positive(self.hidden[0], "PixelCNN", "hidden width") < channels:
            raise ConfigError(f"PixelCNN: expected equal hidden widths of at least in_channels={channels}, one per block; got {self.hidden}.")
        if kernel % 2 == 0 or kernel < 3:
            raise ConfigError(f"PixelCNN: expected an odd kernel of at least 3; got {kernel}.")
        self.out_channels, width, reach = channels * self.outputs_per_channel, self.hidden[0], kernel // 2
        self.rows_above = reach * (len(self.hidden) + 1)
        pixel = torch.arange(channels)
        units, outputs = torch.arange(width) * channels // width, pixel.repeat_interleave(self.outputs_per_channel)
        every = torch.ones(width, 1, dtype=torch.bool)
        self.first_down = _MaskedConv2d(_window(every.expand(width, channels), reach, "above"))
        self.first_right = _MaskedConv2d(_window(units[:, None] > pixel, reach, "left"))
        self.down = nn.ModuleList(_MaskedConv2d(_window(every.expand(width, width), reach, "to_row")) for _ in hidden)
        self.right = nn.ModuleList(_MaskedConv2d(_window(units[:, None] >= units, reach, "left")) for _ in hidden)
        self.link = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in range(len(self.hidden) + 1))
        self.context_layer = nn.Linear(context_features, 2 * width, bias=False) if context_features else None
        self.act = activation_module(activation)
        self.last = _MaskedConv2d((outputs[:, None] >= units)[..., None, None])
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch = x.shape[:-3]
        images = x.reshape(batch.numel(), *x.shape[-3:])
        down, right = self.first_down(images), self.first_right(images)
        if self.context_layer is not None and context is not None:
            added = self.context_layer(context.to(x.dtype)).reshape(batch.numel(), 2 * self.hidden[0], 1, 1)
            down, right = down + added.chunk(2, dim=1)[0], right + added.chunk(2, dim=1)[1]
        right = right + self.link[0](self.act(down))
        for to_down, to_right, link in zip(self.down, self.right, self.link[1:], strict=True):
            down = down + to_down(self.act(down))
            right = right + to_right(self.act(right)) + link(self.act(down))
        return self.last(self.act(right)).reshape(*batch, self.out_channels, *x.shape[-2:])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, PixelCNN]]:
        yield "plain", cls(2, 3, (4,))
        yield "conditional", cls(1, 2, (4, 4), context_features=2, activation="silu")


class _MaskedConv2d(nn.Conv2d):
    """Convolution with some weights held at zero, padded to keep the size."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        units, channels, rows, columns = mask.shape
        super().__init__(channels, units, (rows, columns), padding=(rows // 2, columns // 2))
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        fan_in = mask.flatten(1).sum(1).clamp(min=1)[:, None, None, None]
        with torch.no_grad():  # keep the variance that a dense layer of each unit's own fan-in would have
            self.weight.mul_((mask[0].numel() / fan_in).sqrt() * self.mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.mask * self.weight, self.bias)


def _window(centre: Tensor, reach: int, part: str) -> Tensor:
    """Mask (units, channels, rows, columns) of a window of pixels; ``centre`` (units, channels) holds for the pixel itself.

    "above": the rows above; "to_row": those and the whole own row (for features that see only rows above themselves);
    "left": one row, up to the pixel.
    """
    size = 2 * reach + 1
    mask = torch.zeros(*centre.shape, 1 if part == "left" else size, size, dtype=torch.bool)
    if part == "left":
        mask[..., 0, :reach] = True
        mask[..., 0, reach] = centre
    else:
        mask[..., : reach + (part == "to_row"), :] = True
    return mask
