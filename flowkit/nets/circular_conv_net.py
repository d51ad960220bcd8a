"""Convolutional networks of periodic lattices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.registry import NETS
from flowkit.core.shapes import flag, positive, positive_sizes, whole_number
from flowkit.nets._parts import activation_module

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@NETS.register("circular_conv_net")
class CircularConvNet(nn.Module):
    """Convolutions that wrap around the lattice, so that shifting the input shifts the output.

    The last convolution starts at zero. Without ``bias`` and with the activation "tanh" the network is odd: f(-x) = -f(x).

    Args:
        in_channels, out_channels: numbers at each site.
        hidden: channels of the hidden layers, one for each convolution but the last.
        activation: as for ``MLP``.
        kernel: odd size of the convolutions; half of it, rounded down, is at most the size of the lattice.
        dims: axes of the lattice, 1 to 3.
        bias: whether the convolutions have one.

    Shapes: x (*B, in_channels, *lattice) -> (*B, out_channels, *lattice).

    Reference: Kanwar et al. (2020), Equivariant flow-based sampling for lattice gauge theory, arXiv:2003.06413.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: Sequence[int] = (8, 8),
        *,
        activation: str = "leaky_relu",
        kernel: int = 3,
        dims: int = 2,
        bias: bool = True,
    ) -> None:
        super().__init__()
        who = "CircularConvNet"
        self.in_channels, self.out_channels = positive(in_channels, who, "in_channels"), positive(out_channels, who, "out_channels")
        self.hidden, self.activation, self.bias = positive_sizes(hidden, who, "hidden"), activation, flag(bias, who, "bias")
        self.kernel, self.dims = positive(kernel, who, "kernel"), whole_number(dims, who, "dims", 1, 4)
        if self.kernel % 2 == 0:
            raise ConfigError(f"{who}: expected an odd kernel; got {kernel}.")
        convolution = CONVOLUTIONS[self.dims - 1]
        widths = (self.in_channels, *self.hidden)
        self.layers = nn.ModuleList(convolution(before, after, self.kernel, bias=bias) for before, after in itertools.pairwise(widths))
        self.act = activation_module(activation)
        self.last = convolution(widths[-1], self.out_channels, self.kernel, bias=bias)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def features(self, x: Tensor) -> Tensor:
        """What the last convolution reads: (N, in_channels, *lattice) -> (N, hidden[-1], *lattice)."""
        for layer in self.layers:
            x = self.act(layer(circular_pad(x, self.kernel // 2, self.dims)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - self.dims - 1]
        rows = x.reshape(batch.numel(), *x.shape[x.dim() - self.dims - 1 :])
        out = self.last(circular_pad(self.features(rows), self.kernel // 2, self.dims))
        return out.reshape(*batch, *out.shape[1:])  # type: ignore[no-any-return]

    @classmethod
    def examples(cls) -> Iterator[tuple[str, CircularConvNet]]:
        yield "square", cls(2, 3, (4, 4))
        yield "line_odd", cls(1, 2, (4,), activation="tanh", dims=1, bias=False)


def circular_pad(x: Tensor, width: int, dims: int) -> Tensor:
    """The last ``dims`` axes continued by ``width`` sites of the other end, on either side."""
    if width == 0:
        return x
    for axis in range(-dims, 0):
        size = x.shape[axis]
        if size < width:
            raise ShapeError(f"CircularConvNet: expected at least {width} sites along each axis; got {size}. Use a smaller kernel.")
        # joined pieces: half the cost of functional.pad with its gradient
        x = torch.cat([x.narrow(axis, size - width, width), x, x.narrow(axis, 0, width)], dim=axis)
    return x


def check_kernel(kernel: int, sizes: Sequence[int], who: str) -> None:
    """Raise ConfigError unless a kernel reaches at most once around a lattice of these sizes."""
    if kernel // 2 > min(sizes):
        raise ConfigError(f"{who}: expected a kernel of at most {2 * min(sizes) + 1}, which reaches once around {min(sizes)} sites; got {kernel}.")
