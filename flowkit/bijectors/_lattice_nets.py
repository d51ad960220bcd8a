"""Conditioners of scalar lattice fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowkit.core.errors import ConfigError
from flowkit.nets import CircularConvNet
from flowkit.nets.circular_conv_net import circular_pad

ODD_ACTIVATIONS = ("tanh",)


class EvenOddNet(nn.Module):
    """Two numbers at each site from one field: the first even under a change of sign of the field, the second odd.

    The trunk is odd: convolutions without bias and an odd activation. The odd number is a convolution of its features h, the even one
    a convolution of h^2, with bias. (*B, 1, *lattice) -> (*B, 2, *lattice), zero at the start.
    """

    def __init__(self, hidden: tuple[int, ...], activation: str, kernel: int, dims: int) -> None:
        super().__init__()
        self.kernel, self.dims = kernel, dims
        self.odd = CircularConvNet(1, 1, hidden, activation=activation, kernel=kernel, dims=dims, bias=False)
        self.even = CircularConvNet(hidden[-1] if hidden else 1, 1, (), kernel=kernel, dims=dims)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - self.dims - 1]
        features = self.odd.features(x.reshape(batch.numel(), *x.shape[x.dim() - self.dims - 1 :]))
        odd = self.odd.last(circular_pad(features, self.kernel // 2, self.dims))
        out = torch.cat([self.even(features.square()), odd], dim=1)
        return out.reshape(*batch, *out.shape[1:])


def field_net(who: str, hidden: tuple[int, ...], activation: str, kernel: int, dims: int, symmetry: str) -> CircularConvNet | EvenOddNet:
    """A net from a field to a log-scale and a shift at each site, with the symmetry asked for."""
    if symmetry == "none":
        return CircularConvNet(1, 2, hidden, activation=activation, kernel=kernel, dims=dims)
    if activation not in ODD_ACTIVATIONS:
        raise ConfigError(f"{who}: expected an odd activation, {', '.join(ODD_ACTIVATIONS)}, for symmetry='sign'; got {activation!r}.")
    return EvenOddNet(hidden, activation, kernel, dims)
