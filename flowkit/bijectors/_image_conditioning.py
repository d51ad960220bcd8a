"""What image maps over a univariate share: shapes, domains and the start of a convolutional conditioner."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowkit.core.domain.box import Box
from flowkit.core.errors import ConfigError, ShapeError
from flowkit.core.shapes import Shape, as_shape, show
from flowkit.core.univariate import Univariate


def image_shape(shape: int | Sequence[int | None], who: str) -> tuple[int, int | None, int | None]:
    """Read an image shape: an int is the number of channels of images of any size."""
    read = shape if isinstance(shape, Sequence) else (shape, None, None)
    sizes = as_shape(read, who)
    if len(sizes) != 3 or sizes[0] is None:
        raise ShapeError(f"{who}: expected a number of channels, or (C, H, W) with C known; got {show(sizes)}.")
    return sizes[0], sizes[1], sizes[2]


def image_domain(univariate: Univariate, index: list[int], shape: Shape, pixels: Tensor | None, who: str) -> Box | None:
    """Where a univariate of the channels ``index`` is defined, at the pixels (H, W) given or at all; None for all of R^n."""
    low, high = univariate.intervals(len(index))
    if bool(torch.isinf(low).all() and torch.isinf(high).all()):
        return None
    if None in shape:
        raise ConfigError(f"{who}: a univariate of an interval needs images of one size; got {show(shape)}. Pass shape=(C, H, W), or map with ToBox first.")
    sizes = [int(size) for size in shape if size is not None]
    whole_low, whole_high = torch.full(sizes, -torch.inf, dtype=low.dtype), torch.full(sizes, torch.inf, dtype=low.dtype)
    chosen = torch.ones(sizes[1:], dtype=torch.bool) if pixels is None else pixels
    whole_low[index] = torch.where(chosen, low[:, None, None], torch.full_like(low[:, None, None], -torch.inf))
    whole_high[index] = torch.where(chosen, high[:, None, None], torch.full_like(high[:, None, None], torch.inf))
    return Box(whole_low, whole_high)


def start_image_net(net: nn.Module, univariate: Univariate, channels: int, who: str) -> nn.Module:
    """Set a net's last convolution to give the univariate's initial parameters at every pixel for every input."""
    last = getattr(net, "last", None)
    if not isinstance(last, nn.Conv2d) or last.bias is None:
        raise ConfigError(f"{who}: expected a net whose output layer is a Conv2d with bias called 'last'; got {type(net).__name__}.")
    with torch.no_grad():
        nn.init.zeros_(last.weight)
        last.bias.copy_(univariate.initial_parameters().repeat(channels))
    return net
