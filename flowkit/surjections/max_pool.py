"""Max pooling of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowkit.core.errors import ShapeError
from flowkit.core.registry import SURJECTIONS
from flowkit.core.shapes import positive, sum_event
from flowkit.core.surjection import Surjection
from flowkit.core.traits import Traits


@SURJECTIONS.register("max_pool")
class MaxPool(Surjection):
    """x = the largest value of every 2 x 2 window; the inverse draws the place of the maximum and how far below it the others lie.

    The place is uniform over the window, the three distances are half-normal with a learned scale per channel. ``~MaxPool``
    is the inference form: the data are pooled on the way to the latent, and the likelihood is exact.

    Args:
        shape: (C, 2 H, 2 W) of z; x is (C, H, W).

    Reference: Nielsen et al. (2020), SurVAE Flows, arXiv:2007.02731, section 3.1 and appendix (max surjection).
    """

    traits = Traits(log_det="bound", stochastic=True, smooth=False)

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape
        sizes = tuple(positive(size, "MaxPool", "size in shape") for size in shape)
        if len(sizes) != 3 or sizes[1] % 2 or sizes[2] % 2:
            raise ShapeError(f"MaxPool: expected a shape (C, H, W) with even height and width; got {tuple(shape)}. Pad or crop the images.")
        self.in_shape, self.out_shape = sizes, (sizes[0], sizes[1] // 2, sizes[2] // 2)
        self.log_scale = nn.Parameter(torch.zeros(sizes[0]))

    def _log_prob(self, below: Tensor) -> Tensor:
        """Place and distances (*B, C, H, W, 3)."""
        log_scale = self.log_scale[:, None, None, None]
        density = 0.5 * math.log(2 / math.pi) - log_scale - 0.5 * (below * (-log_scale).exp()).square()
        return sum_event(density.sum(-1) - math.log(4), 3)

    def _forward(self, z: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        windows = _windows(z)
        x, place = windows.max(-1)
        others = windows.gather(-1, _others(place))
        return x, self._log_prob(x.unsqueeze(-1) - others)

    def _inverse(self, x: Tensor, context: Any, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        place = (4 * torch.rand(x.shape, generator=generator, device=x.device)).long().clamp(max=3)
        noise = torch.randn((*x.shape, 3), generator=generator, dtype=x.dtype, device=x.device).abs()
        below = noise * self.log_scale.exp()[:, None, None, None]
        peak = functional.one_hot(place, 4).to(x.dtype) * x.unsqueeze(-1)
        windows = peak.scatter_add(-1, _others(place), x.unsqueeze(-1) - below)
        batch, (channels, height, width) = x.shape[:-3], x.shape[-3:]
        z = windows.reshape(*batch, channels, height, width, 2, 2).transpose(-3, -2).reshape(*batch, channels, 2 * height, 2 * width)
        return z, -self._log_prob(below)

    @classmethod
    def examples(cls) -> Iterator[tuple[str, MaxPool]]:
        yield "image", cls((2, 2, 4))


def _windows(z: Tensor) -> Tensor:
    """(*B, C, 2 H, 2 W) -> (*B, C, H, W, 4)."""
    height, width = z.shape[-2] // 2, z.shape[-1] // 2
    return z.reshape(*z.shape[:-2], height, 2, width, 2).transpose(-3, -2).reshape(*z.shape[:-2], height, width, 4)


def _others(place: Tensor) -> Tensor:
    """The three places of a window besides the given one, in order: (*S) -> (*S, 3)."""
    index = torch.arange(3, device=place.device)
    return index + (index >= place.unsqueeze(-1))
