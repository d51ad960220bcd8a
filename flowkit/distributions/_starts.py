"""Reading what the bases are started with: event shapes of known sizes, initial values, the temperature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowkit.core.errors import ConfigError
from flowkit.core.shapes import as_shape


def known_shape(shape: int | Sequence[int], who: str) -> tuple[int, ...]:
    """An event shape without None."""
    sizes = as_shape(shape, who)
    if None in sizes:
        raise ConfigError(f"{who}: expected a shape of known sizes; got {shape!r}. Pass e.g. (4,).")
    return tuple(int(size) for size in sizes if size is not None)


def start(value: float | Tensor, sizes: tuple[int, ...], who: str, name: str, *, positive: bool = False) -> Tensor:
    """A fresh tensor of the given sizes that holds an initial value."""
    read = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if not bool(torch.isfinite(read).all()) or (positive and not bool((read > 0).all())):
        raise ConfigError(f"{who}: expected {name} to be finite{' and > 0' if positive else ''}; got {value}.")
    try:
        return read.detach().expand(sizes).clone()
    except RuntimeError:
        raise ConfigError(f"{who}: expected {name} to be a number or a tensor that broadcasts to {sizes}; got shape {tuple(read.shape)}.") from None


def unit_temperature(temperature: float, who: str) -> None:
    """Refuse a temperature where none is defined."""
    if temperature != 1.0:
        raise ConfigError(f"{who}.sample: has no temperature; got {temperature}. Leave temperature=1, or use a Gaussian base.")
