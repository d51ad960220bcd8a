"""Convolutional networks of images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.core.registry import NETS
from flowkit.core.shapes import positive, positive_sizes, whole_number
from flowkit.nets._parts import activation_module


@NETS.register("conv_net")
class ConvNet(nn.Module):
    """3x3 convolution, 1x1 convolutions, 3x3 convolution: one hidden layer per width, padded to keep the size of the image.

    The last convolution starts at zero. A context is a vector per image; a linear map of it is added to the first
    hidden layer, the same at every pixel.

    Args:
        in_channels, out_channels: of the images.
        hidden: channels of the hidden layers, at least one.
        context_features: size of the context's last axis.
        activation: as for ``MLP``.
        kernel: odd size of the first and the last convolution.

    Shapes: x (*B, in_channels, H, W), context (*B, context_features) -> (*B, out_channels, H, W).

    Reference: Kingma and Dhariwal (2018), Glow, arXiv:1807.03039, section 5.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context_features: int = 0,
        activation: str = "relu",
        kernel: int = 3,
    ) -> None:
        super().__init__()
        kernel = positive(kernel, "ConvNet", "kernel")
        context_features = whole_number(context_features, "ConvNet", "context_features", 0)
        self.in_channels, self.out_channels = positive(in_channels, "ConvNet", "in_channels"), positive(out_channels, "ConvNet", "out_channels")
        self.hidden, self.context_features, self.activation, self.kernel = positive_sizes(hidden, "ConvNet", "hidden"), context_features, activation, kernel
        if not self.hidden:
            raise ConfigError("ConvNet: expected at least one hidden width; got none.")
        if kernel % 2 == 0:
            raise ConfigError(f"ConvNet: expected an odd kernel; got {kernel}.")
        widths = [positive(width, "ConvNet", "hidden width") for width in hidden]
        self.first = nn.Conv2d(self.in_channels, widths[0], kernel, padding=kernel // 2)
        self.context_layer = nn.Linear(context_features, widths[0], bias=False) if context_features else None
        self.middle = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in itertools.pairwise(widths))
        self.act = activation_module(activation)
        self.last = nn.Conv2d(widths[-1], self.out_channels, kernel, padding=kernel // 2)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch = x.shape[:-3]
        h = self.first(x.reshape(batch.numel(), *x.shape[-3:]))
        if self.context_layer is not None and context is not None:
            h = h + self.context_layer(context.to(x.dtype)).reshape(batch.numel(), self.hidden[0], 1, 1)
        for layer in self.middle:
            h = layer(self.act(h))
        return self.last(self.act(h)).reshape(*batch, self.out_channels, *x.shape[-2:])

    @classmethod
    def examples(cls) -> Iterator[tuple[str, ConvNet]]:
        yield "plain", cls(2, 3, (4, 4))
        yield "conditional", cls(1, 2, (4,), context_features=2, activation="silu")
